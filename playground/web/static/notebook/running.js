// Running cells. The runs belong to the server (web/live_runs.py); this asks for them, and shows what comes of them.
import {morph} from "../morph.js";
import {call, saved} from "./calls.js";
import {mark, setBlock, setOutputs} from "./cells.js";
import {$, article, page, parse, sleep} from "./page.js";
import {RunQueue} from "./run_queue.js";
import {fillPanel, flush} from "./settings.js";
import {sendAll, turns} from "./texts.js";

export let queue = new RunQueue();
export const forgetRuns = () => { queue = new RunQueue(); };

// A cell whose settings the server does not take is not run.
export async function run(ids) {
  const asked = ids.filter(id => article(id)?.dataset.kind === "compare");
  queue.ask(asked);
  mark();
  try {
    await sleep(0); // Gradio hands over what was just typed into the panel
    await sendAll();
    const sent = await Promise.allSettled(asked.map(flush));
    await turns.settled();
    const cells = asked.filter((id, at) => sent[at].status === "fulfilled" && article(id));
    if (!cells.length) return;
    for (const id of cells) refuse(id, "");
    told((await call("run", {cells})).queue);
  } finally {
    queue.answered(asked);
    mark();
  }
}

export const stop = (id, fields) => call("stop", {cell: id, ...fields}).then(({queue: news}) => told(news));
export const stopAll = () => stop(null);

export function told(news) {
  queue.told(news);
  mark();
}

// One event of the server's stream (web/replies.py: RunNews).
export function onNews({update, queue: news, memory}) {
  if (update) onUpdate(update);
  if (news) told(news);
  if (memory) morph(document.querySelector("#vp-strip .vp-memory"), parse(memory));
}

function onUpdate(update) {
  const cell = article(update.cell);
  if (!cell) return;
  if (update.outputs !== undefined) setOutputs(update.cell, update.outputs);
  else if (update.html) setBlock(update.cell, update.block, update.html);
  if (update.runs) $(".vp-n", cell).textContent = `[${update.runs}]`;
  if (update.error) refuse(update.cell, update.error);
  if ("problem" in update) saved(update.problem);
  // A recipe's files are variants now, which the panel does not know.
  if (update.ended && page.active === update.cell && $(".vp-sensitivity", cell)) fillPanel();
}

function refuse(id, text) {
  const place = $(".vp-refused", article(id));
  if (!place) return;
  place.textContent = text;
  place.hidden = !text;
}
