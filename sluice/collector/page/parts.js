// The small things every view shows: a state, badges, a task's link, a plain table.
//
// Promises: a state is told by shape and word, never by colour alone; texts from tasks are
// isolated, so that one with right-to-left marks does not turn the row around.

import { el, keyed, svg } from "./dom.js";
import { count, fullTime, time } from "./format.js";
import { href } from "./route.js";

const SHAPES = {
  queued: "M2 3h8M2 6h8M2 9h8",
  scheduled: "M6 1.500a4.500 4.500 0 1 0 .01 0M6 3.500V6l2 1.200",
  active: "M3 1.800v8.400L10.200 6z",
  completed: "M1.800 6.500l2.800 2.800 5.600-6.600",
  failed: "M2.200 2.200l7.600 7.600M9.800 2.200L2.200 9.800",
  retrying: "M10 6a4 4 0 1 1-1.300-3M9 .800v2.400H6.600",
  cancelled: "M6 1.500a4.500 4.500 0 1 0 .01 0M2.900 2.900l6.200 6.200",
  lost: "M3.800 4.200a2.200 2.200 0 1 1 3.200 2C6.200 6.600 6 7 6 7.800M6 10v.1",
  unknown: "M3 6h.1M6 6h.1M9 6h.1",
  online: "M6 2a4 4 0 1 0 .01 0",
  busy: "M3 1.800v8.400L10.200 6z",
  idle: "M6 2a4 4 0 1 0 .01 0",
  offline: "M2.200 2.200l7.600 7.600M9.800 2.200L2.200 9.800",
};

/** What each badge says, and what it means. */
export const BADGES = {
  stalled: ["stalled", "Stalled: it has been running far longer than this task usually does."],
  orphaned: ["orphaned", "Orphaned: it is active on a worker that is offline, and will hardly end there."],
  duplicate: [
    "duplicate",
    "Duplicate: two runs of this id were active at once; the broker delivered it twice.",
  ],
  storm: ["retry storm", "Retry storm: it is retried again and again in a short time."],
};

/** A state's shape and word. */
export function chip(state) {
  const known = Object.hasOwn(SHAPES, state) ? state : "unknown";
  return el("span", { class: `chip is-${known}`, "data-state": known }, icon(known), state);
}

/** A state's shape alone. */
export function icon(state) {
  return svg(
    "svg",
    { class: `icon is-${state}`, viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    svg("path", { d: SHAPES[state] ?? SHAPES.unknown }),
  );
}

/** The badges of a task, each with its explanation as title. */
export function badges(job) {
  return (job.badges ?? []).map((badge) => {
    const [word, meaning] = BADGES[badge] ?? [badge, badge];
    return el("span", { class: "badge", "data-badge": badge, title: meaning }, word);
  });
}

/** A text from a task. */
export function raw(text, attributes = {}) {
  return el("bdi", attributes, text);
}

export function taskLink(id, text, attributes = {}) {
  return el("a", { href: href({ view: "task", id }), ...attributes }, raw(text));
}

export function tasksLink(filter, text, attributes = {}) {
  return el("a", { href: href({ view: "tasks", ...filter }), ...attributes }, raw(text));
}

/** A moment: short, with the whole of it as title. */
export function moment(iso) {
  return iso ? el("time", { datetime: iso, title: fullTime(iso) }, time(iso)) : "–";
}

/** A button that copies what `text()` gives; `said(words)` tells how it went. */
export function copyButton(label, text, said) {
  const button = el("button", { type: "button", class: "small", on: { click: copy } }, label);
  async function copy() {
    let done = true;
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      done = false; // only where the page is "secure": https, or loopback
    }
    button.textContent = done ? "Copied" : "Not allowed here";
    said(done ? "Copied" : "The browser does not allow copying here");
    setTimeout(() => (button.textContent = label), 1500);
  }
  return button;
}

/** Rows beyond this many are not shown; the caption says so. */
export const MOST_ROWS = 500;

/**
 * A table of things. `columns`: [{label, cell(item), num, order, link}], where `order` is the
 * name of an order and `link(order)` its address. Returns {node, update(items, order)}.
 */
export function table({ id, label, columns, key, empty, signature = JSON.stringify }) {
  const head = columns.map((column) =>
    el(
      "th",
      { scope: "col", class: column.num && "num" },
      column.order ? el("a", { href: column.link(column.order) }, column.label) : column.label,
    ),
  );
  const body = el("tbody");
  const note = el("p", { class: "note" });
  const node = el(
    "div",
    { class: "scroller", role: "region", "aria-label": label, tabindex: 0 },
    el(
      "table",
      { id },
      el("caption", { class: "unseen" }, label),
      el("thead", null, el("tr", null, head)),
      body,
    ),
    note,
  );
  const make = (item) =>
    el(
      "tr",
      null,
      columns.map((column, at) =>
        el(
          at ? "td" : "th",
          {
            scope: at ? null : "row",
            class: [column.num && "num", column.class].filter(Boolean).join(" ") || null,
          },
          column.cell(item),
        ),
      ),
    );
  return {
    node,
    update(items, order) {
      columns.forEach((column, at) => {
        if (!column.order) return;
        head[at].setAttribute("aria-sort", column.order === order ? "descending" : "none");
        head[at].firstChild.setAttribute("href", column.link(column.order));
      });
      keyed(body, items.slice(0, MOST_ROWS), { key, signature, make });
      note.textContent =
        items.length > MOST_ROWS
          ? `${count(MOST_ROWS)} of ${count(items.length)} are shown: search for the others`
          : items.length
            ? ""
            : empty;
    },
  };
}
