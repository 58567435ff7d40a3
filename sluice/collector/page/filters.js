// The form that filters tasks.
//
// Promises: it shows what the URL says, tells each change as a patch of the route, and never
// writes into a field while someone types in it.

import { Reader } from "./api.js";
import { el, fill } from "./dom.js";
import { icon, raw } from "./parts.js";
import { FAILURES, filters, href, onlyFailures, RANGES, SORTS, STATES } from "./route.js";

const TYPING = 250;
const RANGE_WORDS = {
  "5m": "Last 5 minutes",
  "15m": "Last 15 minutes",
  "1h": "Last hour",
  "6h": "Last 6 hours",
  "24h": "Last 24 hours",
};

const option = (value, text) => el("option", { value }, text);
const field = (label, control) => el("label", { class: "field" }, el("span", null, label), control);

function localTime(iso) {
  if (!iso) return "";
  const at = new Date(iso);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** Returns {node, show(route), search, stop()}; `change(patch, typing)` is called for each change. */
export function filterForm(change) {
  let timer = 0;
  let names = { queue: [], worker: [] };
  let shown = null;
  const search = el("input", {
    type: "search",
    id: "search",
    name: "q",
    placeholder: "Name or id  (/)",
    "aria-label": "Search by name or id",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 512,
    "aria-keyshortcuts": "/",
    on: {
      input: () => {
        clearTimeout(timer);
        timer = setTimeout(() => change({ q: search.value }, true), TYPING);
      },
    },
  });
  const states = STATES.map((state) =>
    el("input", {
      type: "checkbox",
      name: "state",
      value: state,
      on: { change: () => change({ state: states.filter((box) => box.checked).map((box) => box.value) }) },
    }),
  );
  const failures = el("input", {
    type: "checkbox",
    id: "failures-only",
    on: { change: () => change({ state: failures.checked ? FAILURES : [] }) },
  });
  const select = (name, ...options) =>
    el(
      "select",
      { name, id: `filter-${name}`, on: { change: (event) => change({ [name]: event.target.value }) } },
      options,
    );
  const queue = select("queue");
  const worker = select("worker");
  const sort = select(
    "sort",
    Object.entries(SORTS).map(([value, text]) => option(value, text)),
  );
  const when = (name, label) =>
    el("input", {
      type: "datetime-local",
      name,
      step: 1,
      "aria-label": label,
      on: {
        change: (event) =>
          change({ range: "", [name]: event.target.value ? new Date(event.target.value).toISOString() : "" }),
      },
    });
  const since = when("since", "From");
  const until = when("until", "Until");
  const between = el("span", { class: "between", hidden: true }, since, " – ", until);
  const range = el(
    "select",
    {
      name: "range",
      id: "filter-range",
      on: {
        change: () => {
          between.hidden = range.value !== "between";
          if (range.value === "between") since.focus();
          else change({ range: range.value, since: "", until: "" });
        },
      },
    },
    option("", "Any time"),
    Object.entries(RANGE_WORDS).map(([value, text]) => option(value, text)),
    option("between", "Between…"),
  );
  const exact = el("p", { class: "exact" });
  const summary = el("summary", null, "Filters");
  const fold = el(
    "details",
    { class: "filters" },
    summary,
    el(
      "div",
      { class: "row" },
      el(
        "fieldset",
        { class: "states-filter" },
        el("legend", { class: "unseen" }, "States"),
        el("label", { class: "toggle" }, failures, el("span", null, "Failures only")),
        states.map((box) =>
          el("label", { class: "toggle" }, box, el("span", null, icon(box.value), box.value)),
        ),
      ),
      el(
        "div",
        { class: "fields" },
        field("Queue", queue),
        field("Worker", worker),
        field("Time", range),
        between,
        field("Sort", sort),
      ),
    ),
  );
  const node = el(
    "form",
    {
      id: "filters",
      role: "search",
      "aria-label": "Filter tasks",
      on: {
        submit: (event) => {
          event.preventDefault();
          clearTimeout(timer);
          change({ q: search.value }, true);
        },
      },
    },
    search,
    fold,
    exact,
  );

  const wide = matchMedia("(min-width: 760px)");
  const unfold = () => (fold.open = wide.matches);
  wide.addEventListener("change", unfold);
  unfold();

  const choose = (box, value, list, all) => {
    const every = [...new Set(value ? [...list, value] : list)].sort();
    if (
      [...box.options]
        .slice(1)
        .map((one) => one.value)
        .join("\n") !== every.join("\n") ||
      !box.options.length
    ) {
      fill(
        box,
        option("", all),
        every.map((one) => option(one, one)),
      );
    }
    box.value = value;
  };
  const offer = () => {
    if (!shown) return;
    if (document.activeElement !== queue) choose(queue, shown.queue, names.queue, "Every queue");
    if (document.activeElement !== worker) choose(worker, shown.worker, names.worker, "Every worker");
  };
  const known = (kind, path, list) =>
    new Reader(
      () => path,
      (answer) => {
        names = { ...names, [kind]: answer[list].map((one) => one.id ?? one.name).filter(Boolean) };
        offer();
      },
      () => 10_000,
    );
  const readers = [known("queue", "/api/queues", "queues"), known("worker", "/api/workers", "workers")];

  return {
    node,
    search,
    changed: () => readers.forEach((reader) => reader.wake()),
    show(route) {
      shown = route;
      if (document.activeElement !== search) {
        clearTimeout(timer);
        search.value = route.q;
      }
      for (const box of states) box.checked = route.state.includes(box.value);
      failures.checked = onlyFailures(route);
      sort.value = route.sort;
      if (document.activeElement !== since) since.value = localTime(route.since);
      if (document.activeElement !== until) until.value = localTime(route.until);
      const fixed = Boolean(route.since || route.until) && !Object.hasOwn(RANGES, route.range);
      if (document.activeElement !== range || !between.contains(document.activeElement)) {
        range.value = fixed ? "between" : route.range;
        between.hidden = !fixed;
      }
      const set = filters(route);
      summary.textContent = set ? `Filters (${set})` : "Filters";
      fill(
        exact,
        ["name", "exception"]
          .filter((name) => route[name])
          .map((name) =>
            el(
              "a",
              {
                class: "exact-one",
                href: href({ ...route, [name]: "" }),
                "aria-label": `Remove the filter ${name} ${route[name]}`,
              },
              `${name === "name" ? "Task" : "Exception"}: `,
              raw(route[name]),
              el("span", { "aria-hidden": "true" }, " ✕"),
            ),
          ),
        set > 0 &&
          el("a", { href: href({ view: "tasks", sort: route.sort }), id: "unfilter" }, "Remove all filters"),
      );
      exact.hidden = set === 0;
      offer();
    },
    stop() {
      clearTimeout(timer);
      wide.removeEventListener("change", unfold);
      readers.forEach((reader) => reader.stop());
    },
  };
}
