// The likeliest tokens at a word of an answer: at a click or a tap, and with ← → where an answer has the focus.
import {call} from "./calls.js";
import {cellOf} from "./page.js";

const tokensOf = text => [...text.querySelectorAll("span[title]")];

// Characters of the answer before a token, as Python counts them; what the reference said instead is not part of it.
export function offset(text, token) {
  const range = document.createRange();
  range.setStart(text, 0);
  range.setEndBefore(token);
  const before = range.cloneContents();
  before.querySelectorAll("del").forEach(old => old.remove());
  return [...before.textContent].length;
}

// The token that holds a character of the answer; undefined where its tokens are not known.
export const tokenAt = (text, at) => tokensOf(text).findLast(token => offset(text, token) <= at);

export async function showLikely(token) {
  const text = token.closest(".vp-text"), [run, index] = token.closest("[data-block]").dataset.block.split(".");
  for (const old of tokensOf(text)) old.classList.toggle("vp-chosen", old === token);
  const variant = token.closest(".vp-pane").dataset.variant;
  const {html} = await call("likely", {
    cell: cellOf(token), run: Number(run), index: Number(index), variant, at: offset(text, token),
  });
  if (!token.isConnected || !token.classList.contains("vp-chosen")) return;
  const old = text.nextElementSibling;
  if (old?.matches(".vp-likely")) old.remove();
  text.insertAdjacentHTML("afterend", html);
}

export function onLikelyClick({target}) {
  const token = target.closest(".vp-text span[title]");
  if (token && getSelection().isCollapsed) showLikely(token).catch(() => {});
}

export function onLikelyKey(event) {
  const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!by || !event.target.matches(".vp-text")) return;
  event.preventDefault();
  const tokens = tokensOf(event.target), at = tokens.findIndex(token => token.classList.contains("vp-chosen"));
  const next = tokens[at + by] ?? (at < 0 ? tokens[0] : null);
  if (next) showLikely(next).catch(() => {});
}
