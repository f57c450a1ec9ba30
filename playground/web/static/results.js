// The results page: a table that the server renders (web/results_page.py), filtered there and sorted here.
import {showPage} from "./early_paint.js";
import {sortAgain, sortBy, sorting} from "./notebook/table_sort.js";
import {regionsOf} from "./regions.js";

const TYPING_MS = 250;

export function start({element, server}) {
  const root = element.querySelector("#vp-results");
  showPage();
  const {region, tell} = regionsOf(root);
  const field = root.querySelector("[data-filter]");
  let timer, newest = 0;

  async function look() {
    const asked = ++newest;
    let reply;
    try {
      reply = await server.table({words: field.value});
    } catch {
      reply = {error: "The server cannot be reached. Try again in a moment."};
    }
    if (asked !== newest) return; // more was typed meanwhile
    if (reply.error) { tell(reply.error, {bad: true}); return; }
    const table = region("table"), sorted = sorting(table);
    table.innerHTML = reply.html;
    sortAgain(table, sorted);
    root.dataset.words = field.value;
    root.dataset.ready = "true";
  }

  if (!field) { root.dataset.ready = "true"; return; }
  field.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, TYPING_MS); });
  root.addEventListener("click", event => {
    const button = event.target.closest("[data-sort]");
    if (button) sortBy(button);
  });
  look();
}
