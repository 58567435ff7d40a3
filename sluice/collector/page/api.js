// Asking the collector.
//
// Promises: a `Reader` has at most one request under way, asks again once for whatever changed
// meanwhile, never more often than its gap or than the collector can answer, not at all while the
// tab is hidden, and nothing of a request that was given up reaches the page.

const PATIENCE = 20_000;

/** An answer that is an error, or none (`status` 0). */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The JSON of an answer. Throws `ApiError`, and `AbortError` where `signal` was used. */
export async function ask(path, { signal, method = "GET" } = {}) {
  const patience = AbortSignal.timeout(PATIENCE);
  let response;
  let body;
  try {
    response = await fetch(path, {
      method,
      headers: { Accept: "application/json" },
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
    });
    body = await response.json().catch((error) => {
      if (error instanceof SyntaxError) return null;
      throw error;
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "The collector does not answer");
  }
  if (!response.ok || body === null) {
    throw new ApiError(response.status, body?.error?.message ?? `The collector answered ${response.status}`);
  }
  return body;
}

const troubles = new Map();
let onTrouble = () => {};

/** Have `listener` told of the error that is to be shown, or null. */
export function watchTrouble(listener) {
  onTrouble = listener;
}

/** `owner` has met `error`, or (null) has it no longer. */
export function trouble(owner, error) {
  if (error) troubles.set(owner, error);
  else if (!troubles.delete(owner)) return;
  const all = [...troubles.values()];
  onTrouble(all.find((one) => one.status === 401) ?? all[0] ?? null);
}

/** One thing that is read again and again. */
export class Reader {
  #path;
  #got;
  #gap;
  #handled;
  #abort = null;
  #timer = 0;
  #again = false;
  #readyAt = 0;
  #failures = 0;
  #stopped = false;

  /**
   * `path()` says what to ask, `got(answer)` takes it, `gap()` is in milliseconds, and
   * `handled(error)` says whether an error is an answer to it: that is no trouble to anyone.
   */
  constructor(path, got, gap = () => 250, handled = () => false) {
    this.#handled = handled;
    this.#path = path;
    this.#got = got;
    this.#gap = gap;
  }

  /** Something may have changed. */
  wake() {
    if (this.#stopped || this.#timer) return;
    if (this.#abort) {
      this.#again = true;
      return;
    }
    const wait = Math.max(0, this.#readyAt - performance.now());
    this.#timer = setTimeout(() => this.#read(), wait);
  }

  /** What is asked has changed: give up what is under way, and ask now. */
  restart() {
    this.#drop();
    this.#readyAt = 0;
    this.#failures = 0;
    this.wake();
  }

  /** Give up for good. */
  stop() {
    this.#stopped = true;
    this.#drop();
    trouble(this, null);
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#again = false;
    this.#abort?.abort();
    this.#abort = null;
  }

  async #read() {
    this.#timer = 0;
    if (document.hidden) return; // all is read again when the tab is seen
    const abort = new AbortController();
    this.#abort = abort;
    const begun = performance.now();
    let answer = null;
    let failed = null;
    try {
      answer = await ask(this.#path(), { signal: abort.signal });
    } catch (error) {
      failed = error;
    }
    if (this.#abort !== abort) return;
    this.#abort = null;
    const took = performance.now() - begun;
    this.#failures = failed ? this.#failures + 1 : 0;
    this.#readyAt =
      performance.now() + Math.max(this.#gap(), 2 * took, Math.min(15_000, 1000 * this.#failures));
    const handled = failed !== null && this.#handled(failed);
    trouble(this, handled ? null : failed);
    if (this.#again || (failed && !handled && failed.status !== 401)) {
      this.#again = false;
      this.wake();
    }
    if (!failed) this.#got(answer);
    else if (!(failed instanceof ApiError)) throw failed;
  }
}
