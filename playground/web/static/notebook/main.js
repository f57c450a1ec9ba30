// The notebook in the browser: starts it, and says which event calls what.
import {showPage} from "../early_paint.js";
import {actions, ask, edit, focusCell, look, repeat} from "./actions.js";
import {call} from "./calls.js";
import {apply} from "./cells.js";
import {addPictures, addPack, addQuestions, imagesOf, importFile, showOutlook} from "./files.js";
import {parsed} from "./fragments.js";
import {onKey} from "./keyboard.js";
import {onLikelyClick, onLikelyHover, onLikelyKey} from "./likely.js";
import {pointAt} from "./links.js";
import {$, $$, article, cellOf, page, panel} from "./page.js";
import {list, onPaletteClick, onPaletteKey} from "./palette.js";
import {onPointer, onZoomKey} from "./region.js";
import {choose, closeList, closePanel, groupRadios, onAnswered, onPanelValues, reportText} from "./settings.js";
import {fill, onTwoScroll} from "./side_by_side.js";
import {storage} from "./storage.js";
import {sortBy} from "./table_sort.js";
import {onSwipe, onTabKey} from "./tabs.js";
import {keepDrafts, send, tellSaved, write} from "./texts.js";

const ignore = () => {}; // the person was told

export function start({element, trigger, server, upload}) {
  const root = element.querySelector("#vp-notebook");
  panel()?.setAttribute("role", "complementary");
  panel()?.setAttribute("aria-labelledby", "vp-side-title");
  panel()?.addEventListener("focusout", closeList);
  if (panel()) groupRadios(panel());
  Object.assign(page, {element, root, trigger, server, upload, browser: storage.browser});
  root.addEventListener("click", onClick);
  root.addEventListener("click", onLikelyClick);
  root.addEventListener("keydown", onLikelyKey);
  root.addEventListener("pointerover", onLikelyHover);
  root.addEventListener("pointerleave", onLikelyHover);
  root.addEventListener("keydown", onTabKey);
  for (const listener of [onSwipe, onTwoScroll]) root.addEventListener("scroll", listener, {capture: true, passive: true});
  root.addEventListener("change", onChange);
  root.addEventListener("toggle", event => openWhereRoomIs(event.target), true);
  root.addEventListener("focusin", event => { const id = cellOf(event.target); if (id) choose(id); });
  root.addEventListener("focusout", onFocusOut);
  root.addEventListener("input", event => {
    if (event.target.matches("[data-prompt], [data-note]")) write(event.target);
    else if (event.target.matches("[data-find]")) list();
  });
  root.addEventListener("dblclick", event => {
    if (event.target.closest(".vp-markdown") && page.canEdit) edit(cellOf(event.target));
  });
  for (const name of ["down", "move", "up", "cancel"]) root.addEventListener(`pointer${name}`, onPointer);
  root.addEventListener("keydown", onZoomKey);
  root.addEventListener("keydown", onPaletteKey);
  root.addEventListener("click", onPaletteClick);
  for (const name of ["dragover", "drop"]) root.addEventListener(name, onDrag);
  root.addEventListener("dragleave", event => event.target.closest(".vp-is-compare")?.classList.remove("vp-over"));
  document.addEventListener("paste", onPaste);
  document.addEventListener("click", event => {
    for (const menu of $$(".vp-menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("click", closePanel, {capture: true});
  document.addEventListener("keydown", onKey);
  document.addEventListener("input", reportText);
  document.addEventListener("vp-answered", event => onAnswered(event.detail)); // web/page.py
  document.addEventListener("vp-settings", event => onPanelValues(event.detail)); // web/settings_panel.py
  document.addEventListener("vp-changed", event => onChanged(event.detail)); // web/page.py
  window.addEventListener("pagehide", keepDrafts);
  window.addEventListener("hashchange", async () => {
    if (parsed(location.hash) && !await pointAt(location.hash)) begin(new URLSearchParams(location.search)).catch(ignore);
  });
  setInterval(tellSaved, 5000);
  begin(new URLSearchParams(location.search)).catch(ignore);
}

// `compare`: ids of variants, in a link of the models page.
async function begin(query) {
  const variants = query.get("compare")?.split(",");
  const {hash} = location;
  page.choosesFirst = !variants;
  await call("open", {key: query.get("notebook"), cell: parsed(hash)?.cell ?? null}).catch(notOpened).finally(showPage);
  page.choosesFirst = true;
  if (hash) await pointAt(hash);
  if (!variants || !page.canEdit) return;
  history.replaceState(null, "", location.pathname);
  const reply = await call("compare", {variants});
  focusCell(reply.cells[0].id);
}

// The message goes by itself, and what the page says meanwhile would stay.
function notOpened(refused) {
  const waits = $(":scope > .vp-empty");
  if (waits) waits.textContent = "The notebook could not be opened. Reload the page to try again.";
  throw refused;
}

// A panel has changed a cell, or added one.
function onChanged(reply) {
  apply(reply);
  if (reply.order) focusCell(reply.cells[0].id);
}

function onClick({target}) {
  const stop = target.closest("[data-stop]"), sort = target.closest("[data-sort]");
  if (sort && !stop) { sortBy(sort); return; }
  const button = stop ?? target.closest("[data-do]");
  if (!button || (!stop && target.closest("a"))) return;
  const menu = button.closest(".vp-menu");
  if (menu) menu.open = false;
  const action = actions[stop ? "stop-pane" : button.dataset.do];
  Promise.resolve(action(cellOf(button), button)).catch(ignore);
}

function onChange({target: field}) {
  const id = cellOf(field), empty = () => { field.value = ""; };
  if (field.matches("[data-pick]")) addPictures(id, [...field.files]).then(empty);
  else if (field.matches("[data-look]") || field.matches("[data-beside]")) look(id).catch(ignore);
  else if (field.matches("[data-two-side]")) fill(field);
  else if (field.matches("[data-questions]")) addQuestions(id, field.files[0]).catch(ignore).finally(empty);
  else if (field.matches("[data-pack]")) addPack(id, field.files[0]).catch(ignore).finally(empty);
  else if (field.matches("[data-suite], [data-suite-seed], [data-suite-token]")) showOutlook(id).catch(ignore);
  else if (field.matches("[data-repeats]")) repeat(id, Number(field.value)).catch(ignore);
  else if (field.matches("[data-q]")) ask(id).then(() => field.dataset.q === "n" && showOutlook(id)).catch(ignore);
  else if (field.matches("[data-title]")) call("rename", {title: field.value}).catch(ignore);
  else if (field.matches("[data-import]")) importFile(field.files[0]).finally(empty);
}

// A menu near the lower edge opens upwards.
function openWhereRoomIs(menu) {
  if (!menu.matches(".vp-menu[open]")) return;
  menu.classList.remove("vp-up");
  const {bottom, height} = $(":scope > div", menu).getBoundingClientRect();
  menu.classList.toggle("vp-up", bottom > innerHeight && menu.getBoundingClientRect().top > height);
}

function onFocusOut({target: field}) {
  if (field.matches("[data-prompt], [data-note]")) send(cellOf(field));
  if (field.matches("[data-note]")) {
    field.hidden = true;
    $(".vp-markdown", field.closest(".vp-cell")).hidden = false;
  }
}

function onDrag(event) {
  const cell = event.target.closest(".vp-is-compare");
  if (!page.canEdit || !cell || ![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  cell.classList.toggle("vp-over", event.type === "dragover");
  const picture = event.target.closest(".vp-pictures figure")?.querySelector("[data-sha]");
  if (event.type === "drop") addPictures(cell.dataset.cell, imagesOf(event.dataTransfer.files), picture?.dataset.sha);
}

function onPaste(event) {
  const images = imagesOf(event.clipboardData?.files);
  if (!images.length || !page.canEdit || !page.active) return;
  event.preventDefault();
  addPictures(page.active, images);
}
