// The likeliest tokens at a word of an answer: at a click or a tap, and with ← → where an answer has the focus. Where a
// mouse rests on a word they stand above it, and nothing moves.
import {call} from "./calls.js";
import {cellOf, page, parse, sleep} from "./page.js";

const RESTS_MS = 150; // on its way to another word a mouse asks for nothing
const NARROW = 620; // px, as the style sheets have it
let under = null; // the word below the mouse
const known = new WeakMap(); // what was shown of a word

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
  const text = token.closest(".vp-text");
  rest(null);
  for (const old of tokensOf(text)) old.classList.toggle("vp-chosen", old === token);
  const html = await likely(token);
  if (!token.isConnected || !token.classList.contains("vp-chosen")) return;
  const old = text.nextElementSibling;
  if (old?.matches(".vp-likely")) old.remove();
  text.insertAdjacentHTML("afterend", html);
}

async function likely(token) {
  const [run, index] = token.closest("[data-block]").dataset.block.split(".");
  const {html} = await call("likely", {
    cell: cellOf(token), run: Number(run), index: Number(index), variant: token.closest(".vp-pane").dataset.variant,
    at: offset(token.closest(".vp-text"), token),
  });
  return html;
}

export function onLikelyHover({target, pointerType}) {
  const token = pointerType === "mouse" ? target.closest?.(".vp-pane .vp-text span[title]") ?? null : null;
  if (token !== under) rest(token).catch(() => {});
}

async function rest(token) {
  under = token;
  page.root.querySelector(".vp-tip")?.remove();
  if (!token || token.classList.contains("vp-chosen")) return;
  await sleep(RESTS_MS);
  if (token !== under) return;
  if (!known.has(token)) known.set(token, await likely(token));
  if (token !== under || !token.isConnected) return;
  const tip = parse(known.get(token));
  tip.className = "vp-tip";
  tip.removeAttribute("role"); // a mouse that passes interrupts no screen reader
  tip.querySelector("[data-do=copy-word-link]")?.remove();
  for (const button of tip.querySelectorAll("button")) button.replaceWith(button.querySelector("q"));
  page.root.append(tip);
  const word = token.getBoundingClientRect(), {width, height} = tip.getBoundingClientRect();
  if (innerWidth <= NARROW) { // there it is several lines high: at the window's edge, away from the line that is read
    const low = word.bottom > innerHeight - height - 40;
    tip.classList.add("vp-tip-edge");
    tip.style[low ? "top" : "bottom"] = low ? "calc(var(--vp-bar) + 4px)" : "4px";
    return;
  }
  tip.style.left = `${Math.max(4, Math.min(word.left, innerWidth - width - 4))}px`;
  tip.style.top = `${word.top > height + 6 ? word.top - height - 4 : word.bottom + 24}px`;
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
