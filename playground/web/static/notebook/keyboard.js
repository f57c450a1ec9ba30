// The keys of the notebook; the page lists them at Ctrl+/.
import {actions, edit, focusCell, follow, move, step} from "./actions.js";
import {goTo} from "./differences.js";
import {$, article, cellOf, frame, page} from "./page.js";
import {openPalette} from "./palette.js";
import {run} from "./running.js";

const FIELDS = "input, textarea, select, [contenteditable]";
const ignore = () => {}; // the person was told

export function onKey(event) {
  if (!event.isTrusted) return; // it closes a list (settings.js)
  const {target, key} = event, control = event.ctrlKey || event.metaKey;
  const cell = page.root.contains(target) ? cellOf(target) : null;
  if ((control && key === "/") || (key === "?" && !target.matches(FIELDS))) {
    event.preventDefault();
    actions.keys();
    return;
  }
  if (control && key.toLowerCase() === "k" && !event.shiftKey && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    openPalette(cell);
    return;
  }
  const two = target.closest?.("[data-two]");
  if (two && (key === "n" || key === "p") && !target.matches(FIELDS) && goTo(two, key === "n" ? 1 : -1)) {
    event.preventDefault();
  }
  if (document.querySelector("dialog[open]")) return;
  if ((key === "n" || key === "p") && !control && !event.altKey && !target.matches(FIELDS)) {
    const id = cell ?? page.active;
    if (id && article(id) && goTo(article(id), key === "n" ? 1 : -1)) event.preventDefault();
    return;
  }
  if (!page.canEdit) return;
  if (key === "Enter" && (control || event.shiftKey)) runKey(event, cell, control);
  else if (key === "Enter" && target.matches("[data-follow]")) {
    event.preventDefault();
    follow(cell, target).catch(ignore);
  } else if (key === "Escape") leave(target, cell);
  else if (target.matches(".vp-cell")) cellKey(event, cell);
}

function runKey(event, cell, control) {
  const id = cell ?? page.active;
  if (!id || (event.shiftKey && !control && !event.target.matches(".vp-cell, [data-prompt]"))) return;
  event.preventDefault();
  if (article(id)?.dataset.kind === "compare") run([id]).catch(ignore);
  else event.target.blur();
  if (event.shiftKey) step(id, 1);
}

function leave(target, cell) {
  frame()?.classList.remove("vp-side-open");
  const menu = target.closest(".vp-menu[open]");
  if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
  else if (cell && target.matches(FIELDS)) focusCell(cell);
}

function cellKey(event, cell) {
  const by = {ArrowUp: -1, ArrowDown: 1}[event.key];
  if (!by && event.key !== "Enter" && event.key !== "Delete") return;
  event.preventDefault();
  if (by && event.altKey) move(cell, by).catch(ignore);
  else if (by) step(cell, by);
  else if (event.key === "Delete") actions.delete(cell).catch(ignore);
  else if (event.target.dataset.kind === "note") edit(cell);
  else $("[data-prompt], [data-q]", event.target).focus();
}
