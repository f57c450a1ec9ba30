// One write of a cell at a time: each carries the version that it builds on, so that the server can tell another tab's.
// Pure: tests/js/turns.test.mjs.

export class Turns {
  #last = new Map();

  // Does the work when everything that was begun for this cell has ended, well or not.
  take(id, work) {
    const turn = (this.#last.get(id) ?? Promise.resolve()).catch(() => {}).then(work);
    this.#last.set(id, turn);
    return turn;
  }

  // When everything that has been begun has ended.
  settled() {
    return Promise.allSettled(this.#last.values());
  }
}

// Values that the server does not have yet, the newest for each cell. They stay until they have arrived.
export class Unsent {
  #values = new Map();
  #turns;
  #send;

  // `send(id, values)` resolves when the server has the values.
  constructor(turns, send) {
    this.#turns = turns;
    this.#send = send;
  }

  has(id) { return this.#values.has(id); }
  put(id, values) { this.#values.set(id, values); }
  drop(id) { this.#values.delete(id); }
  get ids() { return [...this.#values.keys()]; }

  // Resolves when the server has the cell's values; rejects if it does not take them.
  flush(id) {
    return this.#turns.take(id, async () => {
      const values = this.#values.get(id);
      if (values === undefined) return;
      await this.#send(id, values);
      if (this.#values.get(id) === values) this.#values.delete(id);
    });
  }
}

// One request at a time, and after it the newest of those that came meanwhile. Gradio's own trigger_mode="always_last"
// sends the first one's event data again (6.31): the panel then showed the cell that had been left.
export class Newest {
  #send;
  #running = false;
  #next = null;

  // `send(request)`; whoever calls it says `done` when the answer is there.
  constructor(send) { this.#send = send; }

  ask(request) {
    if (this.#running) this.#next = request;
    else this.#begin(request);
  }

  // Whether the answer that has come is the newest one's.
  done() {
    const next = this.#next;
    this.#running = false;
    if (next !== null) this.#begin(next);
    return next === null;
  }

  #begin(request) {
    this.#next = null;
    this.#running = true;
    this.#send(request);
  }
}
