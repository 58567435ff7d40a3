// A long list of tasks, read in pages.
//
// Promises: whatever the list's length, at most KEPT pages are in memory; a page that was
// dropped is known by its cursor and read again when it comes into sight. No I/O.

const FIRST = 80;
const PAGE = 200;
const KEPT = 40;
/** The next page is wanted when this many rows are left below. */
const AHEAD = 100;

export class Pages {
  #query;
  #cursors = [null];
  #starts = [0];
  #pages = new Map();

  /** `query`: the filters and order, as URLSearchParams. */
  constructor(query) {
    this.#query = query;
  }

  /** Rows known. */
  get total() {
    return this.#starts.at(-1);
  }

  /** Whether there are more rows than those known. */
  get more() {
    return typeof this.#cursors.at(-1) === "string" || this.#starts.length === 1;
  }

  /** Whether the first page was read. */
  get read() {
    return this.#starts.length > 1;
  }

  #pageOf(row) {
    let low = 0;
    let high = this.#starts.length - 2;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#starts[middle] <= row) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** The task of a row, or undefined where its page is not there (any more). */
  at(row) {
    const page = this.#pageOf(row);
    return this.#pages.get(page)?.[row - this.#starts[page]];
  }

  /** Which page to read so that these rows can be seen, or null. */
  wanted(first, last) {
    const end = Math.min(last, this.total - 1);
    for (let page = this.#pageOf(first); this.read && page <= this.#pageOf(end); page += 1) {
      if (!this.#pages.has(page)) return page;
    }
    return this.read && this.more && last > this.total - AHEAD ? this.#starts.length - 1 : null;
  }

  /** What to ask for a page. */
  path(page) {
    const query = new URLSearchParams(this.#query);
    query.set("limit", page ? PAGE : FIRST);
    if (this.#cursors[page]) query.set("cursor", this.#cursors[page]);
    return `/api/jobs?${query}`;
  }

  /** A page has come. */
  put(page, { jobs, next }) {
    if (page === this.#starts.length - 1) {
      this.#starts.push(this.total + jobs.length);
      this.#cursors.push(next);
    }
    this.#pages.set(page, jobs);
    while (this.#pages.size > KEPT) {
      const far = [...this.#pages.keys()].sort((a, b) => Math.abs(b - page) - Math.abs(a - page));
      this.#pages.delete(far[0]);
    }
  }

  /** The first page has come anew: what follows it is only kept where it still follows. */
  renew(answer) {
    if (this.read && this.#cursors[1] === answer.next && this.#starts[1] === answer.jobs.length) {
      this.#pages.set(0, answer.jobs);
      return;
    }
    this.#cursors = [null];
    this.#starts = [0];
    this.#pages.clear();
    this.put(0, answer);
  }

  /** How many tasks of a first page that has come anew are before ours; Infinity: all of them. */
  newer({ jobs }) {
    if (!this.total) return jobs.length;
    const first = this.at(0)?.id;
    const place = jobs.findIndex((job) => job.id === first);
    return place >= 0 ? place : Infinity;
  }
}
