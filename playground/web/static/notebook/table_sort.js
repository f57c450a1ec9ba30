// Sorting a table's rows by what a column's cells carry in data-value. Pure but for `sortBy`: tests/js/table_sort.test.mjs.

const number = text => ({True: 1, False: 0})[text] ?? Number(text);

// What is unknown stays at the end, whatever the direction (1 or -1).
export const compare = (a, b, direction) =>
  (a === "") - (b === "") || direction * (number(a) - number(b)) || 0;

export function sortBy(button) {
  const head = button.closest("th"), body = head.closest("table").tBodies[0], column = Number(button.dataset.sort);
  const direction = head.ariaSort === "ascending" ? -1 : 1;
  for (const other of head.parentElement.children) other.ariaSort = "none";
  head.ariaSort = direction > 0 ? "ascending" : "descending";
  const value = row => row.children[column].dataset.value;
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), direction)));
}
