// Prompts and notes: what is typed is sent when the typing pauses, and kept when it could not be sent.
import {call} from "./calls.js";
import {$, $$, article, page} from "./page.js";
import {storage} from "./storage.js";
import {Turns} from "./turns.js";
import {saved} from "../words.js";

const PAUSE_MS = 600, AGAIN_MS = 5000;
const dirty = new Map(); // cell id -> timer of a text that is not sent yet

export const turns = new Turns(); // of all writes: texts, settings, questions

// Whether a text field holds something that the server does not have.
export const isHeld = field => {
  const cell = field.closest(".vp-cell");
  return Boolean(cell && dirty.has(cell.dataset.cell));
};

export function write(field) {
  const id = field.closest(".vp-cell").dataset.cell;
  clearTimeout(dirty.get(id));
  dirty.set(id, setTimeout(() => send(id), PAUSE_MS));
  tellSaved();
}

export const send = id => turns.take(id, () => sendNow(id));

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
    if (!dirty.has(id)) dirty.set(id, setTimeout(() => send(id), AGAIN_MS));
    tellSaved();
  }
}

const textsOf = cell => ({
  version: Number(cell.dataset.version),
  ...(cell.dataset.kind === "note" ? {text: $("[data-note]", cell).value}
    : {prompts: $$("[data-prompt]", cell).map(field => field.value)}),
});

export const sendAll = () => Promise.all([...dirty.keys()].map(send));

// What a page that is left, or reloaded, has not sent yet: it is sent when the notebook is opened again.
export function keepDrafts() {
  const left = [...dirty.keys()].filter(article).map(id => [id, textsOf(article(id))]);
  if (left.length) storage.drafts = {...storage.drafts, [page.key]: Object.fromEntries(left)};
}

export async function sendDrafts() {
  const {[page.key]: drafts, ...others} = storage.drafts;
  if (!drafts || !page.canEdit) return;
  storage.drafts = others;
  for (const [id, texts] of Object.entries(drafts)) if (article(id)) await call("write", {cell: id, ...texts});
}

export function tellSaved() {
  const place = $("[data-saved]");
  if (!place || !page.canEdit) return;
  const text = page.problem ?? (dirty.size ? "saving ..." : saved(Date.now() - page.savedAt));
  if (place.textContent !== text) place.textContent = text;
  place.classList.toggle("vp-bad", page.problem !== null);
}
