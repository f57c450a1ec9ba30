// On a phone the panes of a comparison stand in one row that is swiped; tabs above it say which one is shown.
// Pure but for what has `panes`: tests/js/tabs.test.mjs.

// The pane that is shown, by how far the row was swiped.
export const shownAt = (left, width, count) => width ? Math.max(0, Math.min(count - 1, Math.round(left / width))) : 0;

// Where a key leads among the tabs, round the ends; null: it is none of theirs.
export function keyed(key, at, count) {
  const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: count - 1}[key];
  return to === undefined ? null : (to + count) % count;
}

const tabsOf = panes => [...(panes.parentElement.querySelector(":scope > .vp-tabs")?.querySelectorAll("[role=tab]") ?? [])];
const panesOf = tab => tab.closest(".vp-tabs").parentElement.querySelector(":scope > .vp-panes");

function marked(panes) {
  const tabs = tabsOf(panes), at = shownAt(panes.scrollLeft, panes.clientWidth, tabs.length);
  tabs.forEach((tab, n) => {
    tab.ariaSelected = n === at;
    tab.tabIndex = n === at ? 0 : -1;
  });
  if (!tabs.length) return;
  [...panes.children].forEach((pane, n) => pane.toggleAttribute("data-shown", n === at)); // the row is as tall as it
  tabs[0].closest(".vp-tabs").lastElementChild.textContent = `${at + 1} of ${tabs.length}`;
  const strip = tabs[0].parentElement, {offsetLeft, offsetWidth} = tabs[at];
  if (offsetLeft < strip.scrollLeft || offsetLeft + offsetWidth > strip.scrollLeft + strip.clientWidth) {
    strip.scrollLeft = offsetLeft;
  }
}

// After the panes within were written anew: the server does not know which one is shown.
export const markTabs = within => within.querySelectorAll(".vp-panes").forEach(marked);

export function onSwipe({target}) {
  if (target.matches?.(".vp-panes")) marked(target);
}

export function showTab(tab) {
  const panes = panesOf(tab), at = tabsOf(panes).indexOf(tab);
  panes.scrollTo({left: at * panes.clientWidth});
}

export function onTabKey(event) {
  if (!event.target.matches("[role=tab]")) return;
  const tabs = tabsOf(panesOf(event.target)), to = keyed(event.key, tabs.indexOf(event.target), tabs.length);
  if (to === null) return;
  event.preventDefault();
  showTab(tabs[to]);
  tabs[to].focus({preventScroll: true});
}
