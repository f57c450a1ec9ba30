// "more" below an answer that is cut at the height of its pane; hidden where all of it is seen.
// Pure but for what observes: tests/js/long_answers.test.mjs.

// `padding`: what the style adds below an answer that is cut. A fraction of a pixel is rounding.
export const isCut = ({scrollHeight, clientHeight}, padding) => scrollHeight - padding > clientHeight + 1;

let sizes = null; // observes the answers

function onSizes(entries) {
  for (const {target} of entries) {
    const more = target.parentElement?.querySelector(":scope > .vp-more");
    if (more && !more.open) more.hidden = !isCut(target, parseFloat(getComputedStyle(target).paddingBottom));
  }
}

// After the panes within were written anew. To observe again makes the browser report once, before it paints.
export function watchLong(within) {
  sizes ??= new ResizeObserver(onSizes);
  for (const more of within.querySelectorAll(".vp-more")) {
    const text = more.parentElement.querySelector(":scope > .vp-text");
    sizes.unobserve(text);
    sizes.observe(text);
  }
}
