// The models page: regions of HTML that the server renders (web/models_page.py).
import {showPage} from "./early_paint.js";
import {morph, morphContent} from "./morph.js";
import {regionsOf} from "./regions.js";
import {fileSize} from "./words.js";

export function start({element, server}) {
  const root = element.querySelector("#vp-hub");
  const {region, tell} = regionsOf(root);
  const $ = (selector, within = root) => within.querySelector(selector);
  const $$ = (selector, within = root) => [...within.querySelectorAll(selector)];
  const token = () => $("[data-token]")?.value || null;
  let polling = null;
  let opened = null; // what the repository that is shown was asked for by

  async function call(name, fields = {}) {
    let reply;
    try {
      reply = await server[name](fields);
    } catch {
      reply = {error: "The server cannot be reached. Try again in a moment."};
    }
    if (reply.error) { tell(reply.error, {bad: true}); throw new Error(reply.error); }
    if (reply.notice) tell(reply.notice);
    if ("downloads" in reply) {
      morphContent(region("downloads"), reply.downloads);
      const was = polling !== null;
      if (reply.running && !was) polling = setInterval(() => call("downloads").catch(() => {}), 1000);
      if (!reply.running && was) { clearInterval(polling); polling = null; onChanged(); }
    }
    if ("disk" in reply) morphContent(region("disk"), reply.disk);
    return reply;
  }

  // Files came or went: of the repository that is shown too. Ticks stay.
  async function onChanged() {
    call("on_disk").catch(() => {});
    if (!$(".vp-repo")) return;
    const reply = await call("repo", {...opened, token: token()}).catch(() => null), old = $(".vp-repo");
    if (!reply || !old) return;
    const fresh = new DOMParser().parseFromString(reply.html, "text/html").body.firstElementChild;
    const onDisk = box => box.closest("tr, label:not(tr label)").lastElementChild;
    for (const box of $$("[name=model], [name=projector]", fresh)) {
      const before = $$(`[name=${box.name}]`, old).find(other => other.value === box.value);
      if (!before) continue;
      before.dataset.bytes = box.dataset.bytes;
      onDisk(before).replaceWith(onDisk(box));
    }
    total();
  }

  async function open(text, preset = null) {
    opened = {text, preset};
    region("toast").replaceChildren();
    region("repo").innerHTML = '<p class="vp-note">Asking the Hub …</p>';
    try {
      const reply = await call("repo", {text, token: token(), preset});
      region("repo").innerHTML = reply.html;
      region("repo").scrollIntoView({behavior: "smooth", block: "nearest"});
      check();
    } catch { region("repo").replaceChildren(); }
  }

  function chosen() {
    const repo = $(".vp-repo"), half = $("[name=projector]:checked", repo);
    return {
      repo: repo.dataset.repo, commit: repo.dataset.commit, token: token(),
      models: $$("[name=model]:checked", repo).map(box => box.value),
      projector: half?.value ?? "",
      projector_repo: half?.dataset.repo ?? repo.dataset.repo,
      projector_commit: half?.dataset.commit ?? repo.dataset.commit,
    };
  }

  // What the ticked files still weigh, in the units of the table.
  function total() {
    const ticked = $$("[name=model]:checked, [name=projector]:checked");
    const bytes = ticked.reduce((sum, box) => sum + Number(box.dataset.bytes), 0);
    const place = $("[data-total]");
    if (!place) return;
    $("[data-do=download]").disabled = !bytes;
    place.textContent = bytes ? `${fileSize(bytes)} to download` : "all of it is on this machine";
  }

  async function check() {
    const repo = $(".vp-repo"), findings = repo && $("[data-region=findings]", repo);
    if (!findings) return;
    total();
    const reply = await call("check", chosen()).catch(() => null);
    if (!findings.isConnected) return;
    findings.innerHTML = reply ? reply.html : '<p class="vp-off">The headers could not be read.</p>';
    for (const [name, text] of Object.entries(reply?.fits ?? {})) {
      const cell = $$("[data-fits]", repo).find(other => other.dataset.fits === name);
      if (cell) { cell.textContent = text; cell.className = text.startsWith("fits") ? "vp-same" : "vp-off"; }
    }
  }

  const passes = {
    fits: card => card.dataset.fits === "yes",
    small: card => card.dataset.bytes !== "" && Number(card.dataset.bytes) < 2e9,
  };

  function filter() {
    const wanted = $$("[data-filter]:checked").map(box => passes[box.dataset.filter]), cards = $$(".vp-preset");
    for (const card of cards) card.hidden = !wanted.every(passed => passed(card));
    $("[data-none]").hidden = cards.some(card => !card.hidden);
  }

  // The smallest first, or the largest number, the newest day; what is unknown comes last.
  function order() {
    const key = $("[data-order]").value, smallestFirst = key === "bytes";
    const value = card => key === "changed" ? Date.parse(card.dataset.changed) : Number(card.dataset[key] || NaN);
    const rank = card => Number.isNaN(value(card)) ? Infinity : smallestFirst ? value(card) : -value(card);
    const cards = $$(".vp-preset"), sorted = [...cards].sort((a, b) => rank(a) - rank(b) || 0);
    if (sorted.some((card, i) => card !== cards[i])) $(".vp-presets").append(...sorted);
  }

  // What the Hub says of the cards that have come into view: a few a request, and each card once.
  const unasked = new Set(), inView = new IntersectionObserver(entries => {
    for (const {target, isIntersecting} of entries) if (isIntersecting) { inView.unobserve(target); want([target]); }
  });
  let asking = false;

  async function want(cards) {
    for (const card of cards) if (!card.dataset.asked) { card.dataset.asked = "yes"; unasked.add(card); }
    if (asking) return;
    asking = true;
    while (unasked.size) {
      const some = [...unasked].slice(0, 8);
      for (const card of some) unasked.delete(card);
      const reply = await server.cards({families: some.map(card => card.dataset.preset)}).catch(() => null);
      for (const card of some) show(card, reply?.cards?.[card.dataset.preset]);
      if ($("[data-order]").value !== "bytes") order();
      filter();
    }
    asking = false;
  }

  function show(card, html) {
    if (!html) return; // the Hub said nothing: the card stays
    const fresh = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
    fresh.dataset.asked = "yes";
    morph(card, fresh);
  }

  const actions = {
    repo: button => open(button.dataset.repo),
    preset: button => open(button.dataset.repo, button.dataset.preset),
    projectors: async () => {
      const text = $("[data-projector-repo]").value.trim();
      if (!text) return;
      $("[data-other-projectors]").innerHTML = (await call("projectors", {text, token: token()})).html;
      check();
    },
    "close-repo": () => region("repo").replaceChildren(),
    download: async () => {
      await call("download", {...chosen(), preset: $(".vp-repo").dataset.preset ?? null});
      tell("What is downloaded can be ticked in the notebook as it arrives.");
      region("downloads").scrollIntoView({behavior: "smooth", block: "nearest"});
    },
    cancel: button => call("cancel", {download: button.closest("[data-download]").dataset.download}),
    resume: button => call("resume", {download: button.closest("[data-download]").dataset.download, token: token()}),
    forget: button => call("forget", {download: button.closest("[data-download]").dataset.download}),
    use: async button => {
      const {variant} = await call("use", pair(button.closest("tr")));
      location.assign(`./?compare=${encodeURIComponent(variant)}`);
    },
    inspect: async button => {
      const row = button.closest("tr"), shown = $("[data-inspected]", row.closest(".vp-on-disk"));
      const files = pair(row);
      shown.innerHTML = '<p class="vp-note">Reading the files …</p>';
      try { shown.innerHTML = (await call("inspect", files)).html; shown.files = files; } catch { shown.replaceChildren(); }
    },
    look: async button => {
      const shown = button.closest("[data-inspected]"), verdict = $("[data-look]", shown);
      verdict.textContent = "Loading the pair, and asking …";
      const reply = await call("look", shown.files).catch(() => null);
      verdict.textContent = reply?.verdict ?? "";
      verdict.className = reply?.looks ? "vp-same" : "vp-off";
    },
    delete: button => {
      const row = button.closest("tr");
      if (button.dataset.sure) return call("delete", place(row)).then(onChanged);
      button.dataset.sure = "yes"; button.textContent = `Delete ${button.dataset.size}?`;
      setTimeout(() => { if (button.isConnected) { delete button.dataset.sure; button.textContent = "Delete"; } }, 4000);
    },
  };
  const place = row => {
    const {repo, commit} = row.closest("[data-repo]").dataset;
    return {repo, commit, model: row.dataset.file};
  };
  const pair = row => {
    const half = $("[data-half]", row), {repo, commit} = half.selectedOptions?.[0]?.dataset ?? {};
    return {...place(row), projector: half.value, projector_repo: repo ?? "", projector_commit: commit ?? ""};
  };

  root.addEventListener("click", event => {
    const button = event.target.closest("[data-do]");
    if (button) Promise.resolve(actions[button.dataset.do](button)).catch(() => {});
  });
  root.addEventListener("change", event => { if (event.target.matches("[name=projector], [name=model]")) check(); });
  root.addEventListener("change", event => { if (event.target.matches("[data-filter]")) filter(); });
  root.addEventListener("change", event => {
    if (!event.target.matches("[data-order]")) return;
    order();
    if (event.target.value !== "bytes") want($$(".vp-preset:enabled"));
  });
  root.addEventListener("submit", async event => {
    event.preventDefault();
    const text = event.target.text.value.trim();
    // An address, an id, or a command that has one of them among its words.
    if (/^https?:|^hf:|^(hf|huggingface)\.co\/|^[\w.-]+\/[\w.-]+(:.+)?$|^\S+\s.*\w\/\w/.test(text)) return open(text);
    const reply = await call("search", {text, token: token()}).catch(() => null);
    if (reply) region("found").innerHTML = reply.html;
  });
  for (const card of $$(".vp-preset:enabled")) inView.observe(card);
  call("downloads").catch(() => {});
  showPage();
  call("on_disk").catch(() => {}).finally(() => { root.dataset.ready = "true"; });
}
