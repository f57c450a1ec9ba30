// From difference to difference in the answers of a cell. Pure but for `goTo`: tests/js/differences.test.mjs.

// What was replaced stands in front of what replaces it: together they are one difference.
const DIFFERENCES = ".vp-text ins, .vp-text del:not(:has(+ ins))";

// The place of the next one (by 1) or of the one before (by -1), round the end; -1: none was chosen, or there is none.
export function stepped(count, at, by) {
  if (!count) return -1;
  if (at < 0) return by > 0 ? 0 : count - 1;
  return (at + by + count) % count;
}

// Focuses the next difference of a cell; whether there was one.
export function goTo(cell, by) {
  const all = [...cell.querySelectorAll(DIFFERENCES)].filter(element => element.checkVisibility());
  const next = all[stepped(all.length, all.indexOf(document.activeElement), by)];
  if (!next) return false;
  next.tabIndex = -1;
  next.focus({preventScroll: true});
  next.scrollIntoView({block: "nearest"});
  return true;
}
