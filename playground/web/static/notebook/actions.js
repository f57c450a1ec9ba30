// What a person does: one function for each data-do of a button, and what keys and fields share with them.
import {call} from "./calls.js";
import {mark, setOutputs} from "./cells.js";
import {download, downloadCard, downloadQuestions, downloadResults, drawQuestions, stopDrawing} from "./files.js";
import {offset} from "./likely.js";
import {address} from "./links.js";
import {$, $$, article, page, position} from "./page.js";
import {questionsOf} from "./question_fields.js";
import {fitAll, magnify, takePart, zoom} from "./region.js";
import {run, stop, stopAll, told} from "./running.js";
import {choose, fillPanel, openPanel} from "./settings.js";
import {openTwo} from "./side_by_side.js";
import {storage} from "./storage.js";
import {showTab} from "./tabs.js";
import {send, sendAll, turns} from "./texts.js";
import {toast} from "./toasts.js";

export const actions = {
  run: id => run([id]),
  stop: id => stop(id),
  "copy-answer": async (id, button) => {
    const text = $(".vp-text", button.closest(".vp-pane")).cloneNode(true);
    text.querySelectorAll("del").forEach(before => before.remove());
    await copyText(text.textContent);
    toast("The answer is copied.");
  },
  "copy-cell-link": id => copyLink({cell: id}),
  "copy-pane-link": (id, button) => copyLink(placeOf(id, button)),
  "copy-word-link": (id, button) => {
    const text = $(".vp-text", button.closest(".vp-pane"));
    return copyLink({...placeOf(id, button), word: offset(text, $(".vp-chosen", text))});
  },
  "door-image": async () => {
    await add("compare");
    $("[data-pick]", article(page.active)).click();
  },
  "door-model": () => {
    openPanel("add-model");
    const folded = document.querySelector("#vp-add-model > button:not(.open)");
    folded?.click();
  },
  "door-measure": () => add("measure"),
  "close-intro": (id, button) => {
    storage.introClosed = true;
    button.closest("[data-intro]").hidden = true;
  },
  asked: async (id, button) => setOutputs(id, (await call("look", {cell: id, run: Number(button.dataset.run)})).html),
  restore: async (id, button) => {
    await send(id);
    await call("restore", {cell: id, run: Number(button.dataset.run)});
    focusCell(id);
    fillPanel();
  },
  "run-all": () => run($$(".vp-is-compare").map(cell => cell.dataset.cell)),
  "stop-all": stopAll,
  "stop-pane": (id, button) => stop(id, {variant: button.dataset.stop}),
  "add-compare": id => add("compare", id),
  "add-measure": id => add("measure", id),
  "add-note": id => add("note", id),
  duplicate: async id => {
    await send(id);
    const reply = await call("duplicate", {cell: id});
    focusCell(reply.cells[0].id);
  },
  up: id => move(id, -1),
  down: id => move(id, 1),
  collapse: id => call("write", {cell: id, collapsed: !article(id).classList.contains("vp-collapsed")}),
  delete: async id => {
    await send(id);
    const at = position(id);
    await call("delete", {cell: id});
    if (page.active === id) page.active = null;
    const near = $$(".vp-cell")[Math.min(at, $$(".vp-cell").length - 1)];
    if (near) focusCell(near.dataset.cell);
    toast("Cell deleted.", {actions: [["Undo", undo]]});
  },
  write: edit,
  zoom: (id, button) => zoom(id, button.dataset.sha),
  "zoom-in": () => magnify(1.5),
  "zoom-out": () => magnify(1 / 1.5),
  "zoom-fit": fitAll,
  "zoom-move": (id, button) => button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true"),
  part: async () => focusCell(await takePart(false)),
  "part-alone": async () => focusCell(await takePart(true)),
  unpicture: (id, button) => call("write", {cell: id, unpicture: button.dataset.sha}),
  unturn: async (id, button) => { await send(id); await call("write", {cell: id, unturn: Number(button.dataset.turn)}); },
  gallery: (id, chip) => call("write", {cell: id, gallery: chip.dataset.field === "on"}),
  example: async (id, button) => { await send(id); await call("example", {cell: id, index: Number(button.dataset.index)}); },
  settings: (id, chip) => { choose(id); openPanel(chip.dataset.field); },
  "draw-questions": drawQuestions,
  "stop-questions": stopDrawing,
  "no-pack": id => turns.take(id, () => call("own_pack", {cell: id})),
  embedded: id => turns.take(id, () => call("own_questions", {cell: id})),
  mark: async (id, button) => {
    const [run, block] = blockOf(button);
    const {variant} = button.closest("[data-variant]").dataset;
    await call("mark", {cell: id, run, block, variant, right: button.dataset.right === "true"});
    await refresh(id, run);
  },
  branch: async (id, button) => {
    const [run, block] = blockOf(button), {variant} = button.closest("[data-variant]").dataset;
    const {at, token} = button.dataset;
    told((await call("branch", {cell: id, run, block, variant, at: Number(at), token: Number(token)})).queue);
  },
  blind: (id, button) => call("write", {cell: id, blind: button.dataset.field !== "off"}),
  vote: (id, button) => vote(id, button, $$("[data-accept]:checked", button.closest("[data-block]"))),
  unblind: (id, button) => vote(id, button, null),
  two: (id, button) => openTwo(button.closest(".vp-pane")),
  tab: (id, tab) => showTab(tab),
  "marked-questions": id => turns.take(id, () => call("marked_questions", {cell: id})),
  "export-questions": () => downloadQuestions(),
  "export-cell": id => download(id, "html"),
  "export-cell-json": id => download(id, "json"),
  "export-cell-md": id => download(id, "md"),
  "export-cell-ipynb": id => download(id, "ipynb"),
  card: (id, button) => downloadCard(id, button.dataset.format),
  results: (id, button) => downloadResults(id, $("[data-uploader]", button.parentElement).value),
  export: (id, button) => download(null, button.dataset.format),
  share: async () => { await sendAll(); await call("share", {shared: true}); $(".vp-actions .vp-menu").open = true; },
  unshare: async () => { await sendAll(); await call("share", {shared: false}); },
  "copy-link": async () => {
    await copyText($("[data-link]").value);
    toast("The link is copied.");
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

// The number of the run that an element is in, and which of its comparisons.
const blockOf = node => node.closest("[data-block]").dataset.block.split(".").map(Number);

async function vote(id, button, ticked) {
  const [run, block] = blockOf(button), accepted = ticked?.map(field => Number(field.dataset.accept)) ?? null;
  await call("vote", {cell: id, run, block, accepted});
  await refresh(id, run);
}

function placeOf(cell, node) {
  const [run, block] = blockOf(node);
  return {cell, run, block, variant: node.closest("[data-variant]").dataset.variant};
}

async function copyLink(target) {
  await copyText(address(target));
  const shared = !page.canEdit || $("[data-link]");
  toast(shared ? "The link is copied." : "The link is copied. It opens in this browser: “Share” lets others read it.");
}

// Without https a browser has no clipboard, but for what is selected.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    page.root.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

async function add(kind, after) {
  const reply = await call("add", {kind, after: after ?? page.active});
  const id = reply.cells[0].id;
  focusCell(id);
  if (kind === "note") edit(id);
  else $("[data-prompt], [data-q]", article(id)).focus();
}

let moving = Promise.resolve(); // a key that is held comes faster than the replies, and each move builds on the last
export function move(id, by) {
  moving = moving.catch(() => {}).then(async () => {
    const to = position(id) + by;
    if (to < 0 || to >= $$(".vp-cell").length) return;
    await call("move", {cell: id, to});
    article(id)?.scrollIntoView({block: "nearest"});
  });
  return moving;
}

async function undo() {
  const reply = await call("undo");
  focusCell(reply.cells[0].id);
}

export function edit(id) {
  const cell = article(id), field = $("[data-note]", cell);
  if (!field) return;
  field.hidden = false;
  $(".vp-markdown", cell).hidden = true;
  field.focus();
}

export function focusCell(id) {
  const cell = article(id);
  if (!cell) return;
  cell.focus({preventScroll: true});
  cell.scrollIntoView({block: "nearest"});
  choose(id);
}

export function step(id, by) {
  const other = $$(".vp-cell")[position(id) + by];
  if (other) focusCell(other.dataset.cell);
}

export const look = id => refresh(id, Number($("[data-look]", article(id)).value));

// Shows a run as it is now, beside the newest one where that is ticked.
async function refresh(id, run) {
  const beside = $("[data-beside]", article(id))?.checked ?? false;
  const reply = await call("look", {cell: id, run, beside});
  setOutputs(id, reply.html);
}

// Sends what a measurement asks.
export const ask = id => turns.take(id, () => {
  const fields = $$("[data-q]", article(id)).map(({type, value, checked, dataset}) =>
    ({name: dataset.q, type, value, checked, unit: dataset.unit}));
  return call("write", {cell: id, questions: questionsOf(fields)});
});

export const repeat = (id, repeats) => turns.take(id, () => call("write", {cell: id, repeats}));

export async function follow(id, field) {
  const prompt = field.value.trim();
  if (!prompt) return;
  await send(id);
  field.value = "";
  await call("follow", {cell: id, prompt});
  await run([id]);
}
