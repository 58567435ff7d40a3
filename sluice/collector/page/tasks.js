// The view "Tasks": every task, newest first or as asked.
//
// Promises: while nobody paused it or scrolled it, the table is what the collector has now; else
// nothing moves under the reader's eyes, and a button says how many newer tasks there are.

import { ask, Reader, trouble } from "./api.js";
import { diagnose } from "./diagnosis.js";
import { el, fill } from "./dom.js";
import { count, nowMs, plural } from "./format.js";
import { filterForm } from "./filters.js";
import { Pages } from "./pages.js";
import { filters, href, jobsQuery } from "./route.js";
import { Rows } from "./rows.js";
import { row, signature } from "./taskrow.js";

const SORTED = {
  newest: ["seen", "descending"],
  oldest: ["seen", "ascending"],
  slowest: ["run", "descending"],
  waited: ["wait", "descending"],
};
/** The list that was left last, and where in it: for the way back. */
let left = null;

/** Shows the view in `main`. */
export function tasksView(main, first, app) {
  let route = first;
  let paused = false;
  let busy = null;
  const kept = app.back && left?.href === href(route) ? left : null;
  let pages = kept?.pages ?? new Pages(jobsQuery(route, nowMs()));
  let shown = pages; // the list before a change of filters stays until the new one has come
  const heads = {};
  const head = (name, label, sort, title) =>
    (heads[name] = el(
      "th",
      {
        scope: "col",
        role: "columnheader",
        class: `${name}${sort || name === "attempt" ? " num" : ""}`,
        title: title ?? null,
      },
      sort ? el("a") : label,
    ));
  const table = el(
    "table",
    { id: "tasks", role: "table", "aria-label": "Tasks" },
    el(
      "thead",
      { role: "rowgroup" },
      el(
        "tr",
        { role: "row", "aria-rowindex": 1 },
        head("state", "State"),
        head("name", "Task"),
        head("id", "Id"),
        head("queue", "Queue"),
        head("worker", "Worker"),
        head("attempt", "Attempt"),
        head("seen", "Seen", true, "When it was first heard of"),
        head("wait", "Wait", true, "From being due until it started"),
        head("run", "Run", true, "From its start until its end"),
      ),
    ),
  );
  const box = el(
    "div",
    { id: "tasks-box", class: "scroller", role: "region", "aria-label": "Table of tasks", tabindex: 0 },
    table,
  );
  const found = el("span", { id: "tasks-count", class: "note" });
  const newer = el("button", {
    id: "newer",
    type: "button",
    class: "primary",
    hidden: true,
    on: { click: showNewer },
  });
  const pause = el(
    "button",
    { id: "pause", type: "button", "aria-pressed": "false", on: { click: togglePause } },
    "Pause",
  );
  const exports = ["json", "csv"].map((format) =>
    el(
      "a",
      {
        id: `export-${format}`,
        class: "button",
        download: `tasks.${format}`,
        title: "What the filters leave, at most 200,000 tasks",
      },
      format.toUpperCase(),
    ),
  );
  const empty = el("div", { id: "empty", hidden: true });
  const why = el("div");
  const form = filterForm((patch, typing) => app.go(href({ ...route, ...patch }), typing));
  main.append(
    el(
      "div",
      { class: "bar" },
      el("h1", { tabindex: -1 }, "Tasks"),
      found,
      el("span", { class: "gap" }),
      newer,
      pause,
      el("span", { class: "exports" }, "Export ", exports),
    ),
    form.node,
    why,
    empty,
    box,
  );

  const narrow = matchMedia("(max-width: 759px)");
  const rows = new Rows(box, table, {
    height: () => (narrow.matches ? 60 : 36),
    total: () => shown.total,
    more: () => shown.more,
    at: (place) => shown.at(place),
    make: row,
    signature,
    seen: want,
  });
  const live = () => !paused && box.scrollTop < 4;
  const reader = new Reader(
    () => pages.path(0),
    came,
    () => (live() ? 250 : 2000),
  );

  function came(answer) {
    // Where a range moves with the clock, so does the question.
    if (live() || !pages.read) {
      if (route.range) pages = new Pages(jobsQuery(route, nowMs()));
      pages.renew(answer);
      shown = pages;
      newer.hidden = true;
      table.removeAttribute("aria-busy");
      show();
      return;
    }
    const n = pages.newer(answer);
    newer.hidden = n === 0;
    if (route.sort !== "newest") newer.textContent = "Changed: show";
    else
      newer.textContent = Number.isFinite(n)
        ? `${count(n)} new: show`
        : `${count(answer.jobs.length)}+ new: show`;
  }

  function want(firstRow, lastRow) {
    const page = pages.wanted(firstRow, lastRow);
    if (page === null || busy || document.hidden || shown !== pages) return;
    const abort = (busy = new AbortController());
    const path = pages.path(page);
    ask(path, { signal: abort.signal }).then(
      (answer) => {
        if (busy !== abort) return;
        busy = null;
        trouble(box, null);
        // A live refresh may have begun the list anew meanwhile.
        if (pages.path(page) === path) pages.put(page, answer);
        show();
      },
      (error) => {
        if (busy !== abort) return;
        busy = null;
        trouble(box, error); // asked again at the next scroll or beat
      },
    );
  }

  function show() {
    rows.render();
    const none = shown.read && shown.total === 0;
    const set = filters(route);
    box.hidden = none;
    empty.hidden = !none;
    if (none && set) {
      fill(
        empty,
        el("p", null, "No task matches these filters."),
        el("p", null, el("a", { href: href({ view: "tasks" }) }, "Remove all filters")),
      );
    } else if (none) fill(empty, el("p", null, "No task is here yet. The next one will appear by itself."));
    why.hidden = !none || set > 0;
    if (why.childNodes.length && !why.hidden) empty.hidden = true;
    const all = app.latest && !set ? Object.values(app.latest.counts).reduce((sum, n) => sum + n, 0) : null;
    if (!shown.read) found.textContent = "";
    else if (!shown.more) found.textContent = plural(shown.total, "task");
    else found.textContent = all ? plural(all, "task") : `more than ${count(shown.total)} tasks`;
  }

  function dropBusy() {
    busy?.abort();
    busy = null;
  }

  function showNewer() {
    dropBusy();
    paused = false;
    showPause();
    pages = new Pages(jobsQuery(route, nowMs()));
    box.scrollTop = 0;
    reader.restart();
    box.focus({ preventScroll: true });
  }

  function showPause() {
    pause.setAttribute("aria-pressed", paused);
    pause.textContent = paused ? "Go on" : "Pause";
  }

  function togglePause() {
    paused = !paused;
    showPause();
    app.say(paused ? "The table is paused" : "The table is live");
    reader.restart();
  }

  function showRoute() {
    form.show(route);
    const [column, direction] = SORTED[route.sort];
    for (const [name, sort] of [
      ["seen", route.sort === "newest" ? "oldest" : "newest"],
      ["wait", "waited"],
      ["run", "slowest"],
    ]) {
      heads[name].setAttribute("aria-sort", name === column ? direction : "none");
      fill(
        heads[name],
        el("a", { href: href({ ...route, sort }) }, { seen: "Seen", wait: "Wait", run: "Run" }[name]),
      );
    }
    showExports();
  }

  function showExports() {
    for (const link of exports) {
      const query = jobsQuery(route, nowMs());
      query.set("format", link.id.slice("export-".length));
      link.setAttribute("href", `/api/export?${query}`);
    }
  }

  showRoute();
  if (kept) {
    show();
    box.scrollTop = kept.top;
    rows.render();
  }
  reader.wake();
  narrow.addEventListener("change", () => rows.later());

  return {
    search: form.search,
    keys: { j: () => rows.move(1), k: () => rows.move(-1), p: togglePause },
    changed() {
      reader.wake();
      form.changed();
      rows.later();
      if (route.range) showExports();
    },
    now(now) {
      diagnose(why, now, app.say);
      show();
    },
    update(next) {
      if (href(next) === href(route)) return;
      route = next;
      dropBusy();
      pages = new Pages(jobsQuery(route, nowMs()));
      table.setAttribute("aria-busy", "true");
      box.scrollTop = 0;
      newer.hidden = true;
      showRoute();
      reader.restart();
    },
    stop() {
      left = { href: href(route), pages, top: box.scrollTop };
      dropBusy();
      trouble(box, null);
      reader.stop();
      form.stop();
      rows.stop();
    },
  };
}
