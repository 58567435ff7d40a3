// Knowing when something has changed.
//
// Promises: the event stream where it works, else a question every two seconds; everything is
// read again after each reconnection; while the tab is hidden there is neither stream nor
// question (a browser opens only six connections to a server, over all its tabs).

import { ask } from "./api.js";

const POLL = 2000;
const STREAM_AGAIN = 15_000;
/** The collector keeps what it counted for a second: what it answers at once may be older than the change. */
const SETTLED = 1500;
/** What changes with time alone (a heartbeat's age, a stalled task) is read this often. */
const BEAT = 5000;

/** Calls `changed()`, and `state()` with connecting, live, polling, lost, refused or asleep. */
export class Live {
  #changed;
  #tell;
  #state = "";
  #source = null;
  #seq = null;
  #poll = 0;
  #again = 0;
  #beat = 0;
  #settled = 0;
  #round = 0;

  constructor({ changed, state }) {
    this.#changed = changed;
    this.#tell = state;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#sleep() : this.#wake()));
    if (document.hidden) this.#become("asleep");
    else this.#wake();
  }

  #become(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.#tell(state);
  }

  #wake() {
    this.#sleep("connecting");
    this.#round += 1;
    this.#changed();
    this.#beat = setInterval(() => this.#changed(), BEAT);
    this.#open();
  }

  #sleep(state = "asleep") {
    this.#source?.close();
    this.#source = null;
    this.#round += 1;
    clearTimeout(this.#poll);
    clearTimeout(this.#again);
    clearInterval(this.#beat);
    clearTimeout(this.#settled);
    this.#poll = this.#again = this.#beat = 0;
    this.#become(state);
  }

  #open() {
    const source = new EventSource("/api/live");
    this.#source = source;
    source.onopen = () => {
      clearTimeout(this.#poll);
      this.#poll = 0;
      this.#round += 1;
      this.#become("live");
      this.#changed();
    };
    source.onmessage = (event) => {
      try {
        this.#heard(JSON.parse(event.data).seq);
      } catch {
        this.#changed();
      }
    };
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) {
        this.#source = null;
        this.#again = setTimeout(() => this.#open(), STREAM_AGAIN);
      }
      if (!this.#poll) this.#ask();
    };
  }

  #heard(seq) {
    if (seq === this.#seq) return;
    this.#seq = seq;
    this.#changed();
    clearTimeout(this.#settled);
    this.#settled = setTimeout(() => this.#changed(), SETTLED);
  }

  async #ask() {
    const round = this.#round;
    this.#poll = -1;
    let state = "polling";
    try {
      const { seq } = await ask("/api/tick");
      if (round !== this.#round) return;
      if (this.#state === "lost" || this.#state === "refused") this.#changed();
      this.#heard(seq);
    } catch (error) {
      if (round !== this.#round) return;
      state = error.status === 401 ? "refused" : "lost";
    }
    this.#become(state);
    this.#poll = setTimeout(() => this.#ask(), POLL);
  }
}
