// The settings panel (web/settings_panel.py): which cell it shows, and its values on their way to the server.
//
// Gradio hands over the panel's values at each change, in the browser. They are sent here, in turn with the cell's other
// writes: a run waits until they have arrived, however slow the link is.
import {mark} from "./cells.js";
import {call} from "./calls.js";
import {article, frame, page, panel} from "./page.js";
import {turns} from "./texts.js";
import {Unsent} from "./turns.js";

const PAUSE_MS = 300; // of typing: half a number may be out of range
const unsent = new Unsent(turns, sendNow);
let timer = null;

// Shows a cell's settings, with those that are still on their way to the server.
export function choose(id) {
  if (!page.canEdit || page.active === id || article(id)?.dataset.kind !== "compare") return;
  page.active = id;
  mark();
  hold();
  flush(id).catch(() => unsent.drop(id)).then(() => { if (page.active === id) fillPanel(); });
}

export function fillPanel() {
  hold();
  page.trigger("choose", {key: page.key, cell: page.active});
}

// Until the server's values are there, nobody can change those that they replace. Who is typing keeps the focus.
function hold() {
  panel().inert = !panel().contains(document.activeElement);
}

export const onPanelFilled = () => { panel().inert = false; };

export function onPanelValues({cell, values}) {
  const at = cell.lastIndexOf("/"), id = cell.slice(at + 1);
  if (cell.slice(0, at) !== page.key || !article(id)) return;
  unsent.put(id, values);
  clearTimeout(timer);
  const typing = document.activeElement?.matches("textarea, input:not([type=checkbox], [type=radio])");
  timer = setTimeout(() => unsent.ids.forEach(other => flush(other).catch(() => {})), typing ? PAUSE_MS : 0);
}

// Gradio 6.31 reports a text field's change only at a key press: what is pasted, deleted or composed would be lost.
export function reportText({target}) {
  if (target.matches?.("#vp-sampling textarea")) target.dispatchEvent(new KeyboardEvent("keypress", {bubbles: true}));
}

// Resolves when the server has the cell's settings; rejects if it does not take them.
export const flush = id => unsent.flush(id);

async function sendNow(id, values) {
  const {family, models, projectors, reference, order, endpoints = [], ...settings} = values;
  const {switched} = await call("settings", {
    cell: id, panel: {family, models, projectors, reference: reference ?? "", order, endpoints, settings},
  });
  if (page.active === id) page.trigger(switched ? "choose" : "references", {key: page.key, cell: id});
}

export function openPanel(field) {
  frame()?.classList.add("vp-side-open");
  const named = document.getElementById(`vp-${field}`) ?? document.getElementById("vp-models");
  if (field === "sampling" && !named.querySelector("input")) named.querySelector("button")?.click();
  setTimeout(() => named?.querySelector("input, textarea, button")?.focus(), 60);
  named?.scrollIntoView({block: "nearest"});
}

// Gradio names each radio button apart: with one name for a group, Tab reaches the group once, and arrows go within it.
export function groupRadios(panel) {
  const group = () => {
    for (const set of panel.querySelectorAll("fieldset[id]")) {
      for (const radio of set.querySelectorAll("input[type=radio]")) if (radio.name !== set.id) radio.name = set.id;
    }
  };
  new MutationObserver(group).observe(panel, {childList: true, subtree: true});
  group();
}

// Closes the panel of a narrow page at a click outside of it.
export function closePanel(event) {
  const outside = frame()?.classList.contains("vp-side-open") && !panel()?.contains(event.target)
    && !event.target.closest(".vp-chip") && event.target.isConnected;
  if (outside || event.target.closest("#vp-side-close")) frame()?.classList.remove("vp-side-open");
}
