// Calls of the server's functions (web/notebook_actions.py), and what every reply may bring (web/replies.py).
import {apply, show} from "./cells.js";
import {page, sleep} from "./page.js";
import {address} from "./run_events.js";
import {storage} from "./storage.js";
import {tellSaved} from "./texts.js";
import {toast} from "./toasts.js";

// Rejects if the server refused; the person has been told then.
export async function call(name, fields = {}) {
  let reply;
  try {
    reply = await server(name)({browser: page.browser, key: page.key, ...fields});
  } catch {
    reply = {error: "The server cannot be reached. What you typed is still here; try again in a moment."};
  }
  if (reply.error) { toast(reply.error, {bad: true}); throw new Error(reply.error); }
  if (reply.notice) toast(reply.notice);
  for (const text of reply.problems ?? []) toast(text, {bad: true});
  if ("problem" in reply) saved(reply.problem);
  if (reply.browser) page.browser = storage.browser = reply.browser;
  if (reply.page !== undefined) show(reply);
  else if (reply.cells || reply.order) apply(reply);
  return reply;
}

const server = name => name === "run" ? startRuns : page.server[name];

// A cell that runs already goes on, so that this may be asked again when the connection is lost.
async function startRuns(fields) {
  for (let tries = 3;; await sleep(300)) {
    try {
      const body = JSON.stringify(fields), headers = {"Content-Type": "application/json"};
      const reply = await fetch(address({}), {method: "POST", headers, body});
      return reply.ok ? await reply.json() : {error: (await reply.json().catch(() => null))?.detail ?? reply.statusText};
    } catch (lost) {
      if (!--tries) throw lost;
    }
  }
}

export function saved(problem) {
  page.problem = problem;
  page.savedAt = Date.now();
  tellSaved();
}
