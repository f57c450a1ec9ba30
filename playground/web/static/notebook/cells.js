// The cells on the page. The server renders each of them (rendering/cell_view.py); this keeps the DOM at what it sends.
import {morph, morphContent} from "../morph.js";
import {call} from "./calls.js";
import {watchLong} from "./long_answers.js";
import {$, $$, article, cellOf, frame, page, parse, sleep} from "./page.js";
import {watchRuns} from "./run_events.js";
import {forgetRuns, onNews, queue} from "./running.js";
import {choose} from "./settings.js";
import {storage} from "./storage.js";
import {sortAgain, sorting} from "./table_sort.js";
import {markTabs} from "./tabs.js";
import {isHeld, sendDrafts, tellSaved} from "./texts.js";

export function show(reply) {
  if (page.key !== reply.key) forgetRuns();
  page.key = reply.key;
  page.canEdit = reply.can_edit;
  page.active = null;
  page.savedAt = Date.now();
  page.root.innerHTML = reply.page;
  frame()?.classList.toggle("vp-reading", !page.canEdit);
  if (reply.home) history.replaceState(null, "", location.pathname);
  count();
  tellSaved();
  watchLong(page.root);
  fillLater();
  const intro = $("[data-intro]");
  if (intro) intro.hidden = storage.introClosed;
  const link = $("[data-link]");
  const base = link?.dataset.public ? `${link.dataset.public}/` : `${location.origin}${location.pathname}`;
  if (link) link.value = `${base}?notebook=${link.dataset.link}`;
  const first = $(".vp-is-compare");
  if (first && page.choosesFirst) choose(first.dataset.cell);
  mark();
  page.root.dataset.ready = "true";
  sendDrafts().catch(() => {});
  if (page.key) watchRuns(page.key, reply.seen ?? 0, onNews);
}

export function apply(reply) {
  for (const cell of reply.cells ?? []) {
    const fresh = parse(cell.html), old = article(cell.id);
    if (!old) $(".vp-cells").append(fresh);
    else morph(old, fresh, {isHeld});
    const line = $(".vp-runline[data-stale]", article(cell.id));
    if (line && "stale" in cell) line.dataset.stale = cell.stale;
  }
  for (const cell of reply.cells ?? []) watchLong(article(cell.id));
  if (reply.order) reorder(reply.order);
  mark();
}

function reorder(order) {
  const focus = document.activeElement, list = $(".vp-cells");
  for (const gone of $$(".vp-cell")) if (!order.includes(gone.dataset.cell)) gone.remove();
  order.forEach((id, at) => {
    const cell = article(id);
    if (cell && list.children[at] !== cell) list.insertBefore(cell, list.children[at] ?? null);
    cell?.setAttribute("aria-label", cell.getAttribute("aria-label").replace(/^Cell \d+/, `Cell ${at + 1}`));
    const heading = cell && $(":scope > h2", cell);
    if (heading) heading.textContent = heading.textContent.replace(/^Cell \d+/, `Cell ${at + 1}`);
  });
  if (focus?.isConnected && focus !== document.activeElement) focus.focus({preventScroll: true});
  count();
}

function count() {
  const n = $$(".vp-cell").length, place = $("[data-count]"), empty = $("[data-empty]");
  if (place) place.textContent = n === 1 ? "1 cell" : `${n} cells`;
  if (empty) empty.hidden = n > 0;
}

export function mark() {
  for (const cell of $$(".vp-is-compare")) {
    const id = cell.dataset.cell;
    cell.classList.toggle("vp-active", id === page.active);
    cell.classList.toggle("vp-running", id === queue.running);
    cell.classList.toggle("vp-queued", queue.has(id));
    $(".vp-outputs", cell)?.setAttribute("aria-busy", id === queue.running);
  }
  const stop = $("[data-do=stop-all]");
  if (stop) stop.hidden = queue.idle;
  titlePanel();
}

function titlePanel() {
  const title = document.getElementById("vp-side-title"), cell = page.active && article(page.active);
  if (!title) return;
  const [, number, asked] = cell ? $(":scope > h2", cell).textContent.match(/^(Cell \d+): ?(.*)$/s) : [];
  title.textContent = number ? `Settings of ${number.toLowerCase()} · ${asked}` : "Settings of the selected cell";
}

export function setOutputs(id, html) {
  const place = article(id) && $(".vp-outputs", article(id));
  if (!place) return;
  const sorted = sorting(place);
  morphContent(place, html, {isHeld});
  sortAgain(place, sorted);
  markTabs(place);
  watchLong(place);
}

export function setBlock(id, block, html) {
  const outputs = $(".vp-outputs", article(id)), fresh = parse(html);
  const old = $(`:scope > [data-block="${block}"]`, outputs);
  if (old) morph(old, fresh, {isHeld});
  else outputs.append(fresh);
  markTabs(outputs);
  watchLong(outputs);
}

// --- what is filled in behind the first screen -------------------------------------------------------------------

const seen = new IntersectionObserver(entries => {
  for (const entry of entries) if (entry.isIntersecting) fill([entry.target]).catch(() => {});
}, {rootMargin: "1200px"});

async function fill(places) {
  const wanted = places.filter(place => place.isConnected && place.dataset.later !== undefined);
  for (const place of wanted) { delete place.dataset.later; seen.unobserve(place); }
  if (!wanted.length) return;
  const reply = await call("outputs", {cells: wanted.map(cellOf)});
  for (const {id, html} of reply.outputs) setOutputs(id, html);
}

async function fillLater() {
  const key = page.key;
  $$("[data-later]").forEach(place => seen.observe(place));
  while (page.key === key) {
    const next = $$("[data-later]").slice(0, 6);
    if (!next.length) break;
    await sleep(120);
    try { await fill(next); } catch { break; }
  }
  if (page.key === key) page.root.dataset.filled = "true";
}
