// The cells that run one after another on this page. Pure: tests/js/run_queue.test.mjs.

export class RunQueue {
  running = null;
  #waiting = [];

  add(id) { if (id !== this.running && !this.#waiting.includes(id)) this.#waiting.push(id); }
  has(id) { return this.#waiting.includes(id); }
  remove(id) { this.#waiting = this.#waiting.filter(other => other !== id); }
  clear() { this.#waiting = []; }

  // The cell to be started now, if there is one.
  next() {
    if (this.running !== null || !this.#waiting.length) return null;
    this.running = this.#waiting.shift();
    return this.running;
  }

  ended(id) { if (this.running === id) this.running = null; }
}
