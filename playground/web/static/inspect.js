// The inspect page: regions of HTML that the server renders (web/inspect_page.py), asked for once a second while it is seen.
// `element` and `server` are gr.HTML's.
const root = element.querySelector("#vp-inspect");
const region = name => root.querySelector(`[data-region=${name}]`);
let newest = 0, asking = false, pressing = false, lost = false;

async function call(name, fields = {}) {
  let reply;
  try { reply = await server[name](fields); } catch { reply = {error: "The server cannot be reached. The page goes on asking."}; lost = true; }
  if (reply.error) { tell(reply.error); return; }
  if (lost) { lost = false; region("toast").replaceChildren(); }
  if (reply.time < newest) return;  // a sample from before a button was pressed
  newest = reply.time;
  for (const name of ["alarms", "places", "handles", "queue"]) {
    const fresh = region(name).cloneNode(false);
    fresh.innerHTML = reply[name];
    morph(region(name), fresh);
  }
  root.dataset.ready = "true";
}

function tell(text) {
  const note = document.createElement("p");
  note.className = "vp-error";
  note.textContent = text;
  region("toast").replaceChildren(note);
  clearTimeout(tell.timer);
  tell.timer = setTimeout(() => note.remove(), 20_000);
}

// Makes `old` look like `fresh`, node by node: what is focused, hovered over, selected or scrolled stays.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.dataset?.handle !== fresh.dataset?.handle) { old.replaceWith(fresh); return; }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const {name} of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const {name, value} of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const before = [...old.childNodes], after = [...fresh.childNodes];
  after.forEach((node, at) => before[at] ? morph(before[at], node) : old.append(node));
  before.slice(after.length).forEach(node => node.remove());
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
  const asked = button.dataset.do === "pin" ? call("pin", {id, pinned: button.dataset.pinned === "true"}) : call("unload", {id});
  await asked.finally(() => { pressing = false; });
});
document.addEventListener("visibilitychange", poll);
setInterval(poll, 1000);
poll();
