// Sorting a table's rows by what a column's cells carry in data-value. Pure but for `sortBy`: tests/js/table_sort.test.mjs.

const number = text => ({True: 1, False: 0})[text] ?? Number(text);

// What is unknown stays at the end, whatever the direction (1 or -1).
export function compare(a, b, direction) {
  const difference = number(a) - number(b);
  return (a === "") - (b === "") || direction * (Number.isNaN(difference) ? a.localeCompare(b) : difference) || 0;
}

export function sortBy(button) {
  const head = button.closest("th");
  sort(head, head.ariaSort === "ascending" ? -1 : 1);
}

// How the tables within are sorted, to be handed to `sortAgain` once they have been written anew. By the name of the
// column: those that were empty come meanwhile.
export const sorting = within => [...within.querySelectorAll("table")].map(table => {
  const head = table.querySelector("th[aria-sort=ascending], th[aria-sort=descending]");
  return head && [head.textContent.trim(), head.ariaSort === "ascending" ? 1 : -1];
});

export function sortAgain(within, sorted) {
  const tables = within.querySelectorAll("table");
  sorted.forEach((order, at) => {
    const heads = order ? [...tables[at]?.tHead?.rows[0].cells ?? []] : [];
    const head = heads.find(head => head.querySelector("[data-sort]") && head.textContent.trim() === order[0]);
    if (head) sort(head, order[1]);
  });
}

function sort(head, direction) {
  const table = head.closest("table"), body = table.tBodies[0];
  const column = Number(head.querySelector("[data-sort]").dataset.sort);
  for (const other of head.parentElement.children) other.ariaSort = "none";
  head.ariaSort = direction > 0 ? "ascending" : "descending";
  const value = row => row.children[column].dataset.value;
  body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b), direction)));
}
