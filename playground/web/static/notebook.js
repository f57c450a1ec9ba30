// The notebook in the browser. The server renders every cell (rendering/cell_view.py); this keeps the DOM at what it sends, and
// sends what a person does. `element`, `trigger`, `server`, `upload`, `watch` and `props` are gr.HTML's.
const root = element.querySelector("#vp-notebook");
const memory = {
  get browser() { return this.get(""); },
  set browser(token) { this.set("", token); },
  get drafts() { return JSON.parse(this.get("-drafts") ?? "{}"); },
  set drafts(texts) { this.set("-drafts", JSON.stringify(texts)); },
  get(name) { try { return localStorage.getItem(`vlm-quant-playground${name}`); } catch { return null; } },
  set(name, text) { try { localStorage.setItem(`vlm-quant-playground${name}`, text); } catch { /* this tab only */ } },
};
let browser = memory.browser, key = null, canEdit = false;
let active = null; // the cell whose settings the side shows
let running = null, queue = [];
let touched = 0; // when a setting was last changed, which the server may not have yet
let savedAt = 0, problem = null;
const dirty = new Map(); // cell id -> timer of a text that is not sent yet

const $ = (selector, within = root) => within.querySelector(selector);
const $$ = (selector, within = root) => [...within.querySelectorAll(selector)];
const article = id => $(`.vp-cell[data-cell="${CSS.escape(id)}"]`);
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

// --- the server --------------------------------------------------------------------------------------------------

async function call(name, fields = {}) {
  let reply;
  try {
    reply = await server[name]({browser, key, ...fields});
  } catch {
    reply = {error: "The server cannot be reached. What you typed is still here; try again in a moment."};
  }
  if (reply.error) { toast(reply.error, {bad: true}); throw new Error(reply.error); }
  if (reply.notice) toast(reply.notice);
  for (const text of reply.problems ?? []) toast(text, {bad: true});
  if ("problem" in reply) { problem = reply.problem; savedAt = Date.now(); tellSaved(); }
  if (reply.browser) browser = memory.browser = reply.browser;
  if (reply.page !== undefined) show(reply);
  else if (reply.cells || reply.order) apply(reply);
  return reply;
}

function show(reply) {
  if (key !== reply.key) { running = null; queue = []; }
  key = reply.key; canEdit = reply.can_edit; active = null; savedAt = Date.now();
  root.innerHTML = reply.page;
  frame()?.classList.toggle("vp-reading", !canEdit);
  if (reply.home) history.replaceState(null, "", location.pathname);
  count(); tellSaved(); fillLater();
  const link = $("[data-link]");
  if (link) link.value = `${location.origin}${location.pathname}?notebook=${link.dataset.link}`;
  const first = $(".vp-is-compare");
  if (first) choose(first.dataset.cell);
  mark();
  root.dataset.ready = "true";
  sendDrafts().catch(() => {});
}

function apply(reply) {
  for (const cell of reply.cells ?? []) {
    const fresh = parse(cell.html), old = article(cell.id);
    if (!old) $(".vp-cells").append(fresh);
    else morph(old, fresh);
    const line = $(".vp-runline[data-stale]", article(cell.id));
    if (line && "stale" in cell) line.dataset.stale = cell.stale;
  }
  if (reply.order) {
    const focus = document.activeElement, list = $(".vp-cells");
    for (const gone of $$(".vp-cell")) if (!reply.order.includes(gone.dataset.cell)) gone.remove();
    reply.order.forEach((id, at) => {
      const cell = article(id);
      if (cell && list.children[at] !== cell) list.insertBefore(cell, list.children[at] ?? null);
      cell?.setAttribute("aria-label", cell.getAttribute("aria-label").replace(/^Cell \d+/, `Cell ${at + 1}`));
    });
    if (focus?.isConnected && focus !== document.activeElement) focus.focus({preventScroll: true});
    count();
  }
  mark();
}

function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

// Makes `old` look like `fresh`, node by node: what a person has focused, opened, selected or scrolled stays.
function morph(old, fresh) {
  if (fresh.dataset?.keep !== undefined) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return; }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const {name} of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open" && name !== "hidden") old.removeAttribute(name);
  }
  for (const {name, value} of fresh.attributes) {
    if (old.getAttribute(name) !== value && !(name === "hidden" && old.matches("textarea"))) old.setAttribute(name, value);
  }
  if (old.matches("textarea")) {
    const cell = old.closest(".vp-cell");
    if (document.activeElement !== old && !(cell && dirty.has(cell.dataset.cell))) old.value = fresh.defaultValue;
    return;
  }
  if (old.matches("input, select") && document.activeElement !== old) {
    if (old.type === "checkbox") old.checked = fresh.checked;
    else if (old.type === "number") old.value = fresh.value;
  }
  const before = [...old.childNodes], after = [...fresh.childNodes];
  after.forEach((node, at) => before[at] ? morph(before[at], node) : old.append(node));
  before.slice(after.length).forEach(node => node.remove());
}

// --- what is filled in behind the first screen -------------------------------------------------------------------

const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) fill([entry.target]);
}, {rootMargin: "1200px"});

async function fill(places) {
  const wanted = places.filter(place => place.isConnected && place.dataset.later !== undefined);
  for (const place of wanted) { delete place.dataset.later; seen.unobserve(place); }
  if (!wanted.length) return;
  const ids = wanted.map(place => place.closest(".vp-cell").dataset.cell);
  const reply = await call("outputs", {cells: ids});
  for (const {id, html} of reply.outputs) setOutputs(id, html);
}

async function fillLater() {
  const mine = key;
  $$("[data-later]").forEach(place => seen.observe(place));
  while (key === mine) {
    const next = $$("[data-later]").slice(0, 6);
    if (!next.length) break;
    await sleep(120);
    try { await fill(next); } catch { break; }
  }
  if (key === mine) root.dataset.filled = "true";
}

function setOutputs(id, html) {
  const place = article(id) && $(".vp-outputs", article(id));
  if (!place) return;
  const fresh = document.createElement("div");
  fresh.className = "vp-outputs";
  fresh.innerHTML = html;
  morph(place, fresh);
}

// --- the settings at the side ------------------------------------------------------------------------------------

function choose(id) {
  if (!canEdit || active === id || article(id)?.dataset.kind !== "compare") return;
  active = id;
  mark();
  trigger("choose", {key, cell: id});
}

const side = () => document.getElementById("vp-side");
const frame = () => document.getElementById("vp-body");
document.addEventListener("input", event => { if (side()?.contains(event.target)) touched = Date.now(); });
document.addEventListener("change", event => { if (side()?.contains(event.target)) touched = Date.now(); });
document.addEventListener("vp-changed", event => apply(event.detail)); // a setting was changed: page.py

function openSide(field) {
  frame()?.classList.add("vp-side-open");
  const named = document.getElementById(`vp-${field}`) ?? document.getElementById("vp-models");
  if (field === "sampling" && !named.querySelector("input")) named.querySelector("button")?.click();
  setTimeout(() => named?.querySelector("input, textarea, button")?.focus(), 60);
  named?.scrollIntoView({block: "nearest"});
}

// --- texts -------------------------------------------------------------------------------------------------------

function write(field) {
  const cell = field.closest(".vp-cell"), id = cell.dataset.cell;
  clearTimeout(dirty.get(id));
  dirty.set(id, setTimeout(() => send(id), 600));
  tellSaved();
}

// One write of a cell at a time: each carries the version that it builds on, so that the server can tell another tab's.
const turns = new Map();
function inTurn(id, work) {
  const after = (turns.get(id) ?? Promise.resolve()).catch(() => {}).then(work);
  turns.set(id, after);
  return after;
}

const send = id => inTurn(id, () => sendNow(id));

async function sendNow(id) {
  if (!dirty.has(id)) return;
  clearTimeout(dirty.get(id));
  const cell = article(id);
  if (!cell) { dirty.delete(id); return; }
  const texts = textsOf(cell);
  dirty.delete(id);
  try {
    await call("write", {cell: id, ...texts});
  } catch { // the text stays in the page, and is sent with the next try
    if (!dirty.has(id)) dirty.set(id, setTimeout(() => send(id), 5000));
    tellSaved();
  }
}

const textsOf = cell => ({
  version: Number(cell.dataset.version),
  ...(cell.dataset.kind === "note" ? {text: $("[data-note]", cell).value}
    : {prompts: $$("[data-prompt]", cell).map(field => field.value)}),
});

const sendAll = () => Promise.all([...dirty.keys()].map(send));

// What a page that is left, or reloaded, has not sent yet: it is sent when the notebook is opened again.
window.addEventListener("pagehide", () => {
  const left = [...dirty.keys()].filter(article).map(id => [id, textsOf(article(id))]);
  if (left.length) memory.drafts = {...memory.drafts, [key]: Object.fromEntries(left)};
});

async function sendDrafts() {
  const {[key]: mine, ...others} = memory.drafts;
  if (!mine || !canEdit) return;
  memory.drafts = others;
  for (const [id, texts] of Object.entries(mine)) if (article(id)) await call("write", {cell: id, ...texts});
}

function tellSaved() {
  const place = $("[data-saved]");
  if (!place || !canEdit) return;
  const ago = Math.max(0, Math.round((Date.now() - savedAt) / 1000));
  const when = ago < 5 ? "saved just now" : ago < 90 ? `saved ${ago} s ago` : `saved ${Math.round(ago / 60)} min ago`;
  const told = problem ?? (dirty.size ? "saving ..." : when);
  if (place.textContent !== told) place.textContent = told;
  place.classList.toggle("vp-bad", problem !== null);
}
setInterval(tellSaved, 5000);

function count() {
  const n = $$(".vp-cell").length, place = $("[data-count]"), empty = $("[data-empty]");
  if (place) place.textContent = n === 1 ? "1 cell" : `${n} cells`;
  if (empty) empty.hidden = n > 0;
}

// --- running -----------------------------------------------------------------------------------------------------

async function run(ids) {
  await sendAll();
  await Promise.allSettled(turns.values());
  const wait = touched + 300 - Date.now(); // a setting that was just changed is on its way
  if (wait > 0) await sleep(wait);
  for (const id of ids) if (id !== running && !queue.includes(id) && article(id)?.dataset.kind === "compare") queue.push(id);
  next();
}

function next() {
  if (!running && queue.length) {
    running = queue.shift();
    const place = $(".vp-refused", article(running));
    if (place) place.hidden = true;
    trigger("run", {key, cell: running});
  }
  mark();
}

function mark() {
  for (const cell of $$(".vp-is-compare")) {
    cell.classList.toggle("vp-active", cell.dataset.cell === active);
    cell.classList.toggle("vp-running", cell.dataset.cell === running);
    cell.classList.toggle("vp-queued", queue.includes(cell.dataset.cell));
    $(".vp-outputs", cell)?.setAttribute("aria-busy", cell.dataset.cell === running);
  }
  const stop = $("[data-do=stop-all]");
  if (stop) stop.hidden = !running;
}

watch("value", () => {
  const update = props.value;
  if (!update || !article(update.cell)) { if (update?.ended) ended(update.cell); return; }
  const cell = article(update.cell);
  if (update.outputs !== undefined) setOutputs(update.cell, update.outputs);
  else if (update.html) {
    const fresh = parse(update.html), old = $(`.vp-outputs > [data-block="${update.block}"]`, cell);
    if (old) morph(old, fresh);
    else $(".vp-outputs", cell).append(fresh);
  }
  if (update.runs) $(".vp-n", cell).textContent = `[${update.runs}]`;
  if (update.error) {
    const place = $(".vp-refused", cell);
    place.textContent = update.error;
    place.hidden = false;
  }
  if (update.ended) ended(update.cell);
  if ("problem" in update) { problem = update.problem; savedAt = Date.now(); tellSaved(); }
});

function ended(id) {
  if (running === id) running = null;
  // A recipe's files are variants now, which the side does not know.
  if (active === id && $(".vp-sensitivity", article(id))) trigger("choose", {key, cell: id});
  next();
}

// --- what a person does ------------------------------------------------------------------------------------------

const cellOf = node => node.closest(".vp-cell")?.dataset.cell;
const position = id => $$(".vp-cell").findIndex(cell => cell.dataset.cell === id);

const actions = {
  run: id => run([id]),
  stop: id => { queue = queue.filter(other => other !== id); if (running === id) call("stop", {cell: id}); mark(); },
  "run-all": () => run($$(".vp-is-compare").map(cell => cell.dataset.cell)),
  "stop-all": () => { queue = []; if (running) call("stop", {cell: running}); mark(); },
  "stop-pane": (id, button) => call("stop", {cell: id, variant: button.dataset.stop}),
  "add-compare": id => add("compare", id),
  "add-measure": id => add("measure", id),
  "add-note": id => add("note", id),
  duplicate: async id => { await send(id); const reply = await call("duplicate", {cell: id}); focusCell(reply.cells[0].id); },
  up: id => move(id, -1),
  down: id => move(id, 1),
  collapse: id => call("write", {cell: id, collapsed: !article(id).classList.contains("vp-collapsed")}),
  delete: async id => {
    await send(id);
    if (running === id || queue.includes(id)) actions.stop(id);
    const at = position(id);
    await call("delete", {cell: id});
    if (active === id) active = null;
    const near = $$(".vp-cell")[Math.min(at, $$(".vp-cell").length - 1)];
    if (near) focusCell(near.dataset.cell);
    toast("Cell deleted.", {action: "Undo", run: undo});
  },
  write: id => edit(id),
  zoom: async (id, button) => {
    const reply = await call("picture", {cell: id, sha256: button.dataset.sha});
    $("[data-zoom] img").src = reply.url;
    $("[data-zoom]").showModal();
  },
  unpicture: (id, button) => call("write", {cell: id, unpicture: button.dataset.sha}),
  unturn: async (id, button) => { await send(id); call("write", {cell: id, unturn: Number(button.dataset.turn)}); },
  gallery: (id, chip) => call("write", {cell: id, gallery: chip.dataset.field === "on"}),
  example: async (id, button) => { await send(id); call("example", {cell: id, index: Number(button.dataset.index)}); },
  settings: (id, chip) => { choose(id); openSide(chip.dataset.field); },
  embedded: id => inTurn(id, () => call("own_questions", {cell: id})),
  "export-cell": id => download(id, "html"),
  "export-cell-json": id => download(id, "json"),
  "export-cell-md": id => download(id, "md"),
  "export-cell-ipynb": id => download(id, "ipynb"),
  card: (id, button) => downloadCard(id, button.dataset.format),
  export: (id, button) => download(null, button.dataset.format),
  share: async () => { await sendAll(); await call("share", {shared: true}); $(".vp-actions .vp-menu").open = true; },
  unshare: async () => { await sendAll(); await call("share", {shared: false}); },
  "copy-link": async () => {
    const link = $("[data-link]");
    link.select();
    try { await navigator.clipboard.writeText(link.value); toast("The link is copied."); } catch { document.execCommand("copy"); }
  },
  copy: () => call("copy"),
  "duplicate-notebook": async () => { await sendAll(); await call("copy"); },
  open: async (id, button) => { await sendAll(); await call("open", {key: button.dataset.key}); },
  new: async () => { await sendAll(); await call("create"); },
  home: () => call("open", {key: null}),
  "remove-notebook": async () => {
    if (confirm("Delete this notebook, with all its runs? This cannot be undone.")) await call("remove");
  },
  keys: () => $("[data-keys]").showModal(),
};

async function add(kind, after) {
  const reply = await call("add", {kind, after: after ?? active});
  const id = reply.cells[0].id;
  focusCell(id);
  if (kind === "note") edit(id);
  else $("[data-prompt], [data-q]", article(id)).focus();
}

let moving = Promise.resolve(); // a key that is held comes faster than the replies, and each move builds on the last
function move(id, by) {
  return moving = moving.catch(() => {}).then(async () => {
    const to = position(id) + by;
    if (to < 0 || to >= $$(".vp-cell").length) return;
    await call("move", {cell: id, to});
    article(id)?.scrollIntoView({block: "nearest"});
  });
}

async function undo() {
  const reply = await call("undo");
  focusCell(reply.cells[0].id);
}

function edit(id) {
  const cell = article(id), field = $("[data-note]", cell);
  if (!field) return;
  field.hidden = false;
  $(".vp-markdown", cell).hidden = true;
  field.focus();
}

function focusCell(id) {
  const cell = article(id);
  if (!cell) return;
  cell.focus({preventScroll: true});
  cell.scrollIntoView({block: "nearest"});
  choose(id);
}

async function addPictures(id, files) {
  for (const file of files) {
    try {
      const {path} = await upload(file);
      await call("add_picture", {cell: id, path});
    } catch (error) {
      if (!document.querySelector(".vp-toast.vp-bad")) toast(`${file.name} could not be uploaded: ${error.message ?? error}`, {bad: true});
    }
  }
}

async function addQuestions(id, file) {
  if (!file) return;
  let path;
  try { ({path} = await upload(file)); } catch (error) { return toast(`${file.name} could not be uploaded: ${error.message ?? error}`, {bad: true}); }
  await inTurn(id, () => call("own_questions", {cell: id, path}));
}

async function download(cell, format) {
  await sendAll();
  const {name, mime, text} = await call("export", {cell, format});
  save(name, mime, text);
}
async function downloadCard(cell, format) {
  const shown = $("[data-look]", article(cell));
  const {name, mime, data} = await call("card", {cell, format, ...(shown && {run: Number(shown.value)})});
  save(name, mime, Uint8Array.from(atob(data), letter => letter.charCodeAt(0)));
}
function save(name, mime, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type: mime}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function look(id) {
  const cell = article(id), beside = $("[data-beside]", cell);
  return call("look", {cell: id, run: Number($("[data-look]", cell).value), beside: beside?.checked ?? false})
    .then(reply => setOutputs(id, reply.html));
}

function toast(text, {bad = false, action, run: act} = {}) {
  const box = document.createElement("div");
  box.className = bad ? "vp-toast vp-bad" : "vp-toast";
  box.setAttribute("role", bad ? "alert" : "status");
  box.append(Object.assign(document.createElement("span"), {textContent: text}));
  const close = () => box.remove();
  if (action) box.append(Object.assign(document.createElement("button"), {textContent: action, onclick: () => { close(); act(); }}));
  box.append(Object.assign(document.createElement("button"), {textContent: "×", ariaLabel: "Close", onclick: close}));
  let region = $(".vp-toasts", element);
  if (!region) element.append(region = Object.assign(document.createElement("div"), {className: "vp-toasts"}));
  for (const old of [...region.children]) if (old.firstChild.textContent === text) old.remove();
  region.append(box);
  setTimeout(close, bad ? 20_000 : 10_000);
}

// --- events ------------------------------------------------------------------------------------------------------

root.addEventListener("click", event => {
  const stop = event.target.closest("[data-stop]");
  if (stop) return actions["stop-pane"](cellOf(stop), stop);
  const sort = event.target.closest("[data-sort]");
  if (sort) return sortBy(sort);
  const button = event.target.closest("[data-do]");
  if (!button || event.target.closest("a")) return;
  const menu = button.closest(".vp-menu");
  if (menu) menu.open = false;
  Promise.resolve(actions[button.dataset.do](cellOf(button), button)).catch(() => {}); // the person was told
});

function sortBy(button) {
  const head = button.closest("th"), body = head.closest("table").tBodies[0], column = Number(button.dataset.sort);
  const sign = head.ariaSort === "ascending" ? -1 : 1;
  for (const other of head.parentElement.children) other.ariaSort = "none";
  head.ariaSort = sign > 0 ? "ascending" : "descending";
  const value = row => row.children[column].dataset.value;
  const number = text => ({True: 1, False: 0})[text] ?? Number(text);
  body.append(...[...body.rows].sort((a, b) => // what is unknown stays at the end
    (value(a) === "") - (value(b) === "") || sign * (number(value(a)) - number(value(b)))));
}

root.addEventListener("focusin", event => { const id = cellOf(event.target); if (id) choose(id); });
root.addEventListener("input", event => {
  if (event.target.matches("[data-prompt], [data-note]")) write(event.target);
});
root.addEventListener("change", event => {
  const field = event.target, id = cellOf(field);
  if (field.matches("[data-pick]")) { addPictures(id, [...field.files]).then(() => { field.value = ""; }); }
  else if (field.matches("[data-look]") || field.matches("[data-beside]")) look(id).catch(() => {});
  else if (field.matches("[data-questions]")) addQuestions(id, field.files[0]).catch(() => {}).finally(() => { field.value = ""; });
  else if (field.matches("[data-q]")) ask(id).catch(() => {});
  else if (field.matches("[data-title]")) call("rename", {title: field.value}).catch(() => {});
  else if (field.matches("[data-import]")) importFile(field.files[0]).finally(() => { field.value = ""; });
});
root.addEventListener("focusout", event => {
  const field = event.target;
  if (field.matches("[data-prompt], [data-note]")) send(cellOf(field));
  if (field.matches("[data-note]")) {
    field.hidden = true;
    $(".vp-markdown", field.closest(".vp-cell")).hidden = false;
  }
});
root.addEventListener("dblclick", event => { if (event.target.closest(".vp-markdown") && canEdit) edit(cellOf(event.target)); });

// What a measurement asks, all fields together.
const ask = id => inTurn(id, () => {
  const questions = {plan: {}, limits: {}};
  for (const field of $$("[data-q]", article(id))) {
    const [of, name] = field.dataset.q.split(".");
    const value = field.type === "checkbox" ? field.checked : field.type !== "number" ? field.value
      : of !== "limits" ? Number(field.value) || 1
      : field.value === "" ? null : /bytes|memory/.test(name) ? Math.min(Math.round(Number(field.value) * field.dataset.unit), 2 ** 60) : Number(field.value);
    if (name) questions[of][name] = value; else questions[of] = value;
  }
  touched = Date.now();
  return call("write", {cell: id, questions});
});

async function importFile(file) {
  if (!file) return;
  if (file.size > 128e6) return toast(`${file.name} is too large to import (over 128 MB).`, {bad: true});
  await sendAll();
  try { await call("import_file", {text: await file.text()}); } catch { /* the person was told */ }
}

for (const name of ["dragover", "drop"]) {
  root.addEventListener(name, event => {
    const cell = event.target.closest(".vp-is-compare");
    if (!canEdit || !cell || ![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    cell.classList.toggle("vp-over", name === "dragover");
    if (name === "drop") addPictures(cell.dataset.cell, [...event.dataTransfer.files].filter(file => file.type.startsWith("image/")));
  });
}
root.addEventListener("dragleave", event => event.target.closest(".vp-is-compare")?.classList.remove("vp-over"));
document.addEventListener("paste", event => {
  const images = [...(event.clipboardData?.files ?? [])].filter(file => file.type.startsWith("image/"));
  if (!images.length || !canEdit || !active) return;
  event.preventDefault();
  addPictures(active, images);
});
document.addEventListener("click", event => {
  for (const menu of $$(".vp-menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  const panel = side();
  if (event.target.closest("#vp-side-close") ||
      (frame()?.classList.contains("vp-side-open") && !panel?.contains(event.target) && !event.target.closest(".vp-chip")
       && event.target.isConnected)) frame()?.classList.remove("vp-side-open");
});

document.addEventListener("keydown", event => {
  const field = event.target.matches?.("input, textarea, select, [contenteditable]");
  const inside = root.contains(event.target), cell = inside ? cellOf(event.target) : null;
  const control = event.ctrlKey || event.metaKey;
  if (control && event.key === "/") { event.preventDefault(); actions.keys(); return; }
  if (document.querySelector("dialog[open]") || !canEdit) return;
  if (event.key === "Enter" && (control || event.shiftKey)) {
    const id = cell ?? active;
    if (!id || (event.shiftKey && !control && !event.target.matches(".vp-cell, [data-prompt]"))) return;
    event.preventDefault();
    if (article(id)?.dataset.kind === "compare") run([id]);
    else event.target.blur();
    if (event.shiftKey) step(id, 1);
  } else if (event.key === "Enter" && event.target.matches("[data-follow]")) {
    event.preventDefault();
    follow(cell, event.target);
  } else if (event.key === "Escape") {
    frame()?.classList.remove("vp-side-open");
    if (event.target.closest(".vp-menu[open]")) { const menu = event.target.closest(".vp-menu"); menu.open = false; menu.querySelector("summary").focus(); }
    else if (field && cell) focusCell(cell);
  } else if (event.target.matches(".vp-cell")) {
    const by = {ArrowUp: -1, ArrowDown: 1}[event.key];
    if (by && event.altKey) { event.preventDefault(); move(cell, by); }
    else if (by) { event.preventDefault(); step(cell, by); }
    else if (event.key === "Enter") { event.preventDefault(); event.target.dataset.kind === "note" ? edit(cell) : $("[data-prompt], [data-q]", event.target).focus(); }
    else if (event.key === "Delete") { event.preventDefault(); actions.delete(cell); }
  }
});

function step(id, by) {
  const other = $$(".vp-cell")[position(id) + by];
  if (other) focusCell(other.dataset.cell);
}

async function follow(id, field) {
  const prompt = field.value.trim();
  if (!prompt) return;
  await send(id);
  field.value = "";
  await call("follow", {cell: id, prompt});
  run([id]);
}

call("open", {key: new URLSearchParams(location.search).get("notebook")}).catch(() => {});
