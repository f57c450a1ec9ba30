// The settings panel (web/settings_panel.py): which cell it shows, and its values on their way to the server.
//
// Gradio hands over the panel's values at each change, in the browser. They are sent here, in turn with the cell's other
// writes: a run waits until they have arrived, however slow the link is.
import {mark} from "./cells.js";
import {call} from "./calls.js";
import {article, frame, page, panel} from "./page.js";
import {turns} from "./texts.js";
import {Newest, Unsent} from "./turns.js";

const PAUSE_MS = 300; // of typing: half a number may be out of range
const unsent = new Unsent(turns, sendNow);
const requests = Object.fromEntries(["choose", "references"].map(event =>
  [event, new Newest(cell => page.trigger(event, {key: page.key, cell}))]));
let timer = null;
let fills = 0, asked = 0; // how often the panel was to be filled; which of them the server was asked for last
let edits = 0, editsBefore = 0; // how often somebody changed a value; how often before that request

// Shows a cell's settings, with those that are still on their way to the server.
export function choose(id) {
  if (!page.canEdit || page.active === id || article(id)?.dataset.kind !== "compare") return;
  page.active = id;
  mark();
  fillPanel();
}

// Until the server's values are there, nobody can change those that they replace. Who is typing keeps the focus.
export function fillPanel() {
  const id = page.active, number = fills += 1, before = edits;
  if (number === 1) panel().classList.add("vp-empty-panel");
  panel().inert = !panel().contains(document.activeElement);
  flush(id).catch(() => unsent.drop(id)).then(() => {
    if (number !== fills) return;
    [asked, editsBefore] = [number, before];
    requests.choose.ask(id);
  });
}

// `event`: the one that Gradio has answered.
export function onAnswered(event) {
  if (!requests[event].done() || event !== "choose" || asked !== fills) return;
  if (edits !== editsBefore) fillPanel(); // shows again what was typed meanwhile
  else {
    panel().inert = false;
    panel().classList.remove("vp-empty-panel");
  }
}

export function onPanelValues({cell, values}) {
  const at = cell.lastIndexOf("/"), id = cell.slice(at + 1);
  if (cell.slice(0, at) !== page.key || !article(id)) return;
  unsent.put(id, values);
  edits += 1;
  clearTimeout(timer);
  const typing = document.activeElement?.matches("textarea, input:not([type=checkbox], [type=radio])");
  timer = setTimeout(() => unsent.ids.forEach(other => flush(other).catch(() => {})), typing ? PAUSE_MS : 0);
}

// Gradio 6.31 opens a list at Tab, and leaves it open over the panel.
export function closeList({target}) {
  if (target.matches("[role=combobox]")) target.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape", bubbles: true}));
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
  if (page.active !== id) return;
  if (switched) fillPanel();
  else requests.references.ask(id);
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

// Closes the panel of a narrow page at a click outside of it. Before the click does anything: it may open the panel.
export function closePanel(event) {
  const outside = !panel()?.contains(event.target) || event.target.closest("#vp-side-close");
  if (outside) frame()?.classList.remove("vp-side-open");
}
