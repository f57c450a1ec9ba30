// Watches the runs of the notebook on the server (web/run_events.py), and comes back whenever the connection is lost.
//
// A page that nobody sees does not watch: a browser opens six connections to a server, for all its tabs.
import {page, sleep} from "./page.js";
import {toast} from "./toasts.js";

const SILENT_MS = 40_000; // the server says something every 15 s
const PAUSE_MS = 500;
const LOST_MS = 5000;

let server = null; // the process of the app that answered first
let connection = new AbortController();
let watched = 0; // counts what was watched: only the last one goes on

document.addEventListener("visibilitychange", () => { if (document.hidden) connection.abort(); });

export const address = fields => new URL(`vp-runs?${new URLSearchParams(fields)}`, document.baseURI);

// `since`: the newest news that the page holds. Each of the server's events goes to `onNews`.
export async function watchRuns(key, since, onNews) {
  const own = ++watched;
  connection.abort();
  let heardAt = Date.now();
  const take = news => {
    if (own !== watched) return;
    if (news.server && news.server !== (server ??= news.server)) location.reload(); // the app was started anew
    since = Math.max(since, news.id);
    heardAt = Date.now();
    page.root.dataset.live = "true";
    onNews(news);
  };
  while (own === watched) {
    while (document.hidden) await new Promise(seen => document.addEventListener("visibilitychange", seen, {once: true}));
    connection = new AbortController();
    const status = await listen(address({notebook: key, since}), connection, take).catch(() => null);
    if (own !== watched || status === 404) return;
    delete page.root.dataset.live;
    if (status === 401) location.reload(); // shows the login
    if (!document.hidden && Date.now() - heardAt > LOST_MS) {
      toast("The connection to the server is lost. Runs go on there, and the page tries again.");
      heardAt = Infinity; // said once
    }
    await sleep(PAUSE_MS);
  }
}

// Resolves with the server's status when the connection has ended.
async function listen(url, controller, take) {
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => controller.abort(), SILENT_MS);
  };
  alive();
  try {
    const reply = await fetch(url, {signal: controller.signal});
    if (!reply.ok) return reply.status;
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = "";;) {
      const {value, done} = await reader.read();
      if (done) return reply.status;
      alive();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) if (event.startsWith("data: ")) take(JSON.parse(event.slice(6)));
    }
  } finally {
    clearTimeout(timer);
  }
}
