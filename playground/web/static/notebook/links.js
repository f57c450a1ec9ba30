// Links to a cell, a pane and a word of an answer, and what they open.
import {call} from "./calls.js";
import {setOutputs} from "./cells.js";
import {showLikely, tokenAt} from "./likely.js";
import {$, article} from "./page.js";
import {fragment, parsed} from "./fragments.js";

// Shows what an address names; whether its cell is in this notebook.
export async function pointAt(hash) {
  const target = parsed(hash), cell = target && article(target.cell);
  if (!cell) return false;
  for (const old of document.querySelectorAll(".vp-pointed")) old.classList.remove("vp-pointed");
  const block = () => $(`[data-block="${target.run}.${target.block}"]`, cell);
  if (target.variant && !block()) {
    setOutputs(target.cell, (await call("look", {cell: target.cell, run: target.run})).html);
  }
  const pane = target.variant && block() && $(`[data-variant="${CSS.escape(target.variant)}"]`, block());
  const shown = pane || cell;
  shown.classList.add("vp-pointed");
  shown.tabIndex = pane ? -1 : 0;
  shown.focus({preventScroll: true});
  shown.scrollIntoView({block: pane ? "center" : "start", inline: "start"});
  const token = pane && target.word !== null && tokenAt($(".vp-text", pane), target.word);
  if (token) {
    const more = $(".vp-more", pane);
    if (more) more.open = true;
    await showLikely(token);
    token.scrollIntoView({block: "center", inline: "nearest"});
  }
  return true;
}

// The address of a fragment for whoever may read this notebook; without its key where it is not shared.
export function address(target) {
  const key = $("[data-link]")?.dataset.link ?? new URLSearchParams(location.search).get("notebook");
  return `${location.origin}${location.pathname}${key ? `?notebook=${encodeURIComponent(key)}` : ""}${fragment(target)}`;
}
