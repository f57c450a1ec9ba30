// Two answers of a comparison side by side, which scroll together. Pure but for what has a dialog:
// tests/js/side_by_side.test.mjs.
import {$, $$} from "./page.js";

// How far the one has to be scrolled where the other is, as a share of what each can be.
export function matching(from, to) {
  const room = from.scrollHeight - from.clientHeight, other = to.scrollHeight - to.clientHeight;
  return room > 0 && other > 0 ? Math.round(from.scrollTop / room * other) : 0;
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
  place.setAttribute("aria-label", `The answer of ${labelOf(panes[select.value])}`);
}

const following = new WeakMap(); // where a side was scrolled to because the other one was

export function onTwoScroll({target}) {
  if (!target.matches?.("[data-two-text]")) return;
  if (following.get(target) === target.scrollTop) { following.delete(target); return; }
  const other = $$("[data-two-text]").find(each => each !== target), to = matching(target, other);
  if (other.scrollTop === to) return;
  following.set(other, to);
  other.scrollTop = to;
}
