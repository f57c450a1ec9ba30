// Two answers of a comparison side by side, which scroll together. Pure but for what has a dialog:
// tests/js/side_by_side.test.mjs.
import {$, $$} from "./page.js";

const MOST = 200; // places that are measured

// Places where both texts say the same, as pairs of offsets that rise in both: two words that stand once in each text.
export function anchors(a, b) {
  const [first, second] = [a, b].map(pairsOnce);
  const shared = [...first].filter(([words]) => second.has(words)).map(([words, at]) => [at, second.get(words)]);
  const rising = longestRising(shared), step = Math.ceil(rising.length / MOST);
  return rising.filter((_, n) => n % step === 0);
}

function pairsOnce(text) {
  const words = [...text.matchAll(/\S+/g)], at = new Map();
  for (let n = 0; n + 1 < words.length; n++) {
    const pair = `${words[n][0]} ${words[n + 1][0]}`;
    at.set(pair, at.has(pair) ? null : words[n].index);
  }
  return new Map([...at].filter(([, place]) => place !== null));
}

// The most pairs, sorted by their first numbers, whose second numbers rise too.
function longestRising(pairs) {
  const ends = [], before = []; // ends[n]: the pair with the smallest second number that ends n + 1 rising ones
  pairs.forEach(([, value], at) => {
    let low = 0, high = ends.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (pairs[ends[middle]][1] < value) low = middle + 1; else high = middle;
    }
    before[at] = low ? ends[low - 1] : -1;
    ends[low] = at;
  });
  const chosen = [];
  for (let at = ends.at(-1) ?? -1; at >= 0; at = before[at]) chosen.push(pairs[at]);
  return chosen.reverse();
}

// How far the one has to be scrolled where the other is, so that the same words stand level. `heights`: where they
// stand in each, from the top. They are level at a line that goes from the top of what is seen, at the beginning, to
// its bottom, at the end: both begin and end together.
export function matching(from, to, heights = []) {
  const room = from.scrollHeight - from.clientHeight, other = to.scrollHeight - to.clientHeight;
  if (room <= 0 || other <= 0) return 0;
  const share = Math.max(0, Math.min(1, from.scrollTop / room)), line = from.scrollTop + share * from.clientHeight;
  const known = [[0, 0], ...heights, [from.scrollHeight, to.scrollHeight]];
  const next = Math.max(1, known.findIndex(([height]) => height >= line));
  const [[x0, y0], [x1, y1]] = [known[next - 1], known[next]];
  const level = x1 > x0 ? y0 + (line - x0) / (x1 - x0) * (y1 - y0) : y0;
  return Math.round(Math.max(0, Math.min(other, level - share * to.clientHeight)));
}

let panes = []; // of the comparison
const dialog = () => $("[data-two]");
const labelOf = pane => pane.getAttribute("aria-label");

// With the reference at the left, unless it is the pane itself.
export function openTwo(pane) {
  panes = [...pane.parentElement.querySelectorAll(":scope > .vp-pane")].filter(each => $(".vp-text", each).textContent.trim());
  const reference = panes.findIndex(each => each.matches(".vp-reference")), at = panes.indexOf(pane);
  const left = reference < 0 || reference === at ? panes.findIndex((_, n) => n !== at) : reference;
  [Math.max(0, left), at].forEach((chosen, side) => {
    const select = $(`[data-two-side="${side}"]`);
    select.replaceChildren(...panes.map((each, n) => new Option(labelOf(each), n, n === chosen, n === chosen)));
    fill(select);
  });
  dialog().showModal();
  for (const text of $$("[data-two-text]")) text.scrollTop = 0;
  $("[data-two-text]").focus();
}

// Shows the answer that was chosen for a side, as its pane marks it.
export function fill(select) {
  const text = $(".vp-text", panes[select.value]).cloneNode(true);
  text.removeAttribute("tabindex");
  for (const token of text.querySelectorAll("[title]")) token.removeAttribute("title"); // asks for nothing here
  for (const token of text.querySelectorAll(".vp-chosen")) token.classList.remove("vp-chosen");
  const place = $(`[data-two-text="${select.dataset.twoSide}"]`);
  place.replaceChildren(text);
  measured = null;
  place.setAttribute("aria-label", `The answer of ${labelOf(panes[select.value])}`);
}

// What an answer says itself, without the reference's words in it, and where each character stands.
function written(side) {
  const nodes = [], walker = document.createTreeWalker(side, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) if (!walker.currentNode.parentElement.closest("del")) nodes.push(walker.currentNode);
  const top = side.getBoundingClientRect().top - side.scrollTop, range = document.createRange();
  let at = 0, begin = 0; // of the node that was looked at last: offsets rise
  return {
    text: nodes.map(node => node.data).join(""),
    height(offset) {
      while (offset >= begin + nodes[at].length) begin += nodes[at++].length;
      range.setStart(nodes[at], offset - begin);
      range.setEnd(nodes[at], offset - begin + 1);
      return range.getBoundingClientRect().top - top;
    },
  };
}

let measured = null; // where the same words stand in both sides, and the widths for which that holds

function heights(sides) {
  const widths = sides.map(side => side.clientWidth).join();
  if (measured?.widths !== widths) {
    const [left, right] = sides.map(written);
    const pairs = anchors(left.text, right.text).map(([a, b]) => [left.height(a), right.height(b)]);
    measured = {widths, pairs};
  }
  return measured.pairs;
}

const following = new WeakMap(); // where a side was scrolled to because the other one was

export function onTwoScroll({target}) {
  if (!target.matches?.("[data-two-text]")) return;
  if (following.get(target) === target.scrollTop) { following.delete(target); return; }
  const sides = $$("[data-two-text]"), at = sides.indexOf(target), other = sides[1 - at];
  const pairs = heights(sides).map(pair => at ? [pair[1], pair[0]] : pair);
  const to = matching(target, other, pairs);
  if (other.scrollTop === to) return;
  following.set(other, to);
  other.scrollTop = to;
}
