// The inspect page: regions of HTML that the server renders (web/inspect_page.py), asked for once a second while it is
// seen.
import {showPage} from "./early_paint.js";
import {morphContent} from "./morph.js";
import {regionsOf} from "./regions.js";

export function start({element, server}) {
  const root = element.querySelector("#vp-inspect");
  const {region, tell} = regionsOf(root);
  let newest = 0, asking = false, pressing = false, lost = false;

  async function call(name, fields = {}) {
    let reply;
    try {
      reply = await server[name](fields);
    } catch {
      reply = {error: "The server cannot be reached. The page goes on asking."};
      lost = true;
    }
    if (reply.error) { tell(reply.error, {bad: true}); return; }
    if (lost) { lost = false; region("toast").replaceChildren(); }
    if (reply.time < newest) return; // a sample from before a button was pressed
    newest = reply.time;
    for (const name of ["alarms", "places", "handles", "queue"]) morphContent(region(name), reply[name]);
    root.dataset.ready = "true";
  }

  async function poll() {
    if (asking || document.visibilityState !== "visible") return;
    asking = true;
    await call("look").finally(() => { asking = false; });
  }

  root.addEventListener("click", async event => {
    const button = event.target.closest("[data-do]");
    if (!button || pressing) return;
    const id = button.closest("[data-handle]").dataset.handle;
    pressing = true;
    const done = button.dataset.do === "pin"
      ? call("pin", {id, pinned: button.dataset.pinned === "true"})
      : call("unload", {id});
    await done.finally(() => { pressing = false; });
  });
  document.addEventListener("visibilitychange", poll);
  setInterval(poll, 1000);
  poll().finally(showPage);
}
