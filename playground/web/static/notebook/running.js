// Running cells, one after another. The news of a run come as gr.HTML's value (web/run_stream.py).
import {call, saved} from "./calls.js";
import {mark, setBlock, setOutputs} from "./cells.js";
import {$, article, page, sleep} from "./page.js";
import {RunQueue} from "./run_queue.js";
import {fillPanel, flush} from "./settings.js";
import {sendAll, turns} from "./texts.js";

export let queue = new RunQueue();
export const forgetRuns = () => { queue = new RunQueue(); };

// A cell whose settings the server does not take is not run.
export async function run(ids) {
  await sleep(0); // Gradio hands over what was just typed into the panel
  await sendAll();
  const sent = await Promise.allSettled(ids.map(flush));
  await turns.settled();
  ids.forEach((id, at) => {
    if (sent[at].status === "fulfilled" && article(id)?.dataset.kind === "compare") queue.add(id);
  });
  next();
}

export function stop(id) {
  const running = queue.running === id;
  queue.remove(id);
  if (running) call("stop", {cell: id}).catch(() => {});
  mark();
}

export function stopAll() {
  queue.clear();
  if (queue.running !== null) stop(queue.running);
  mark();
}

function next() {
  const id = queue.next();
  if (id !== null) {
    const refused = $(".vp-refused", article(id));
    if (refused) refused.hidden = true;
    page.trigger("run", {key: page.key, cell: id});
  }
  mark();
}

export function onUpdate(update) {
  const cell = update && article(update.cell);
  if (cell) {
    if (update.outputs !== undefined) setOutputs(update.cell, update.outputs);
    else if (update.html) setBlock(update.cell, update.block, update.html);
    if (update.runs) $(".vp-n", cell).textContent = `[${update.runs}]`;
    if (update.error) {
      const refused = $(".vp-refused", cell);
      refused.textContent = update.error;
      refused.hidden = false;
    }
    if ("problem" in update) saved(update.problem);
  }
  if (update?.ended) ended(update.cell);
}

function ended(id) {
  queue.ended(id);
  // A recipe's files are variants now, which the panel does not know.
  if (page.active === id && article(id) && $(".vp-sensitivity", article(id))) fillPanel();
  next();
}
