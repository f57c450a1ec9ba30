// The cells that run or wait, as the server says. Pure: tests/js/run_queue.test.mjs.

export class RunQueue {
  running = null;
  #waiting = [];
  #asked = new Set(); // on their way to the server
  #id = -1;

  ask(ids) { for (const id of ids) this.#asked.add(id); }
  answered(ids) { for (const id of ids) this.#asked.delete(id); }

  // What the server says; an older word of it may come later, by another way.
  told({id, running, waiting}) {
    if (id < this.#id) return;
    this.#id = id;
    this.running = running;
    this.#waiting = waiting;
  }

  has(id) { return id !== this.running && (this.#waiting.includes(id) || this.#asked.has(id)); }
  get idle() { return this.running === null && !this.#waiting.length && !this.#asked.size; }
}
