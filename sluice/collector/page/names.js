// The view "Names": how each task does, by its name.
//
// Promises: order and search are in the URL; the order is the reader's, whatever comes in.

import { Reader } from "./api.js";
import { diagnose } from "./diagnosis.js";
import { el } from "./dom.js";
import { count, duration, percent } from "./format.js";
import { table, taskLink, tasksLink } from "./parts.js";
import { href } from "./route.js";

const ORDERS = {
  count: "count",
  failures: "failureRate",
  wait: "waitP95",
  run: "runP95",
  slowest: "slowest",
};

/** Shows the view in `main`. */
export function namesView(main, first, app) {
  let route = first;
  let names = null;
  let timer = 0;
  const why = el("div");
  const ordered = (order) => ({ order, link: (by) => href({ ...route, by: by === "count" ? "" : by }) });
  const list = table({
    id: "names",
    label: "Tasks by name",
    empty: "No task name fits.",
    key: (one) => one.name,
    columns: [
      {
        label: "Task",
        class: "wide",
        cell: (one) => tasksLink({ name: one.name }, one.name, { title: one.name }),
      },
      { label: "Count", num: true, ...ordered("count"), cell: (one) => count(one.count) },
      {
        label: "Failures",
        num: true,
        ...ordered("failures"),
        cell: (one) =>
          one.failed
            ? tasksLink({ name: one.name, state: ["failed"] }, percent(one.failureRate), {
                title: `${count(one.failed)} of ${count(one.ended)} that ended`,
              })
            : percent(one.failureRate),
      },
      { label: "Wait p50", num: true, cell: (one) => duration(one.waitP50) },
      { label: "Wait p95", num: true, ...ordered("wait"), cell: (one) => duration(one.waitP95) },
      { label: "Run p50", num: true, cell: (one) => duration(one.runP50) },
      { label: "Run p95", num: true, ...ordered("run"), cell: (one) => duration(one.runP95) },
      {
        label: "Slowest",
        num: true,
        ...ordered("slowest"),
        cell: (one) =>
          one.slowestId
            ? taskLink(one.slowestId, duration(one.slowest), {
                "aria-label": `The slowest run of ${one.name}: ${duration(one.slowest)}`,
              })
            : "–",
      },
    ],
  });
  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Name  (/)",
    "aria-label": "Search by name",
    autocomplete: "off",
    spellcheck: "false",
    on: {
      input: () => {
        clearTimeout(timer);
        timer = setTimeout(() => app.go(href({ ...route, q: search.value }), true), 250);
      },
    },
  });
  main.append(
    el(
      "div",
      { class: "bar" },
      el("h1", { tabindex: -1 }, "Task names"),
      el("span", { class: "gap" }),
      search,
    ),
    why,
    list.node,
  );

  function show() {
    if (document.activeElement !== search) search.value = route.q;
    if (!names) return;
    const by = Object.hasOwn(ORDERS, route.by) ? route.by : "count";
    const wanted = route.q.toLowerCase();
    const value = (one) => one[ORDERS[by]] ?? -1;
    list.update(
      names
        .filter((one) => one.name.toLowerCase().includes(wanted))
        .sort((a, b) => value(b) - value(a) || (a.name < b.name ? -1 : 1)),
      by,
    );
  }

  const reader = new Reader(
    () => "/api/names",
    (answer) => {
      names = answer.names;
      show();
    },
    () => 1000,
  );
  reader.wake();
  show();
  return {
    search,
    changed: () => reader.wake(),
    now: (now) => diagnose(why, now, app.say),
    update(next) {
      route = next;
      show();
    },
    stop() {
      clearTimeout(timer);
      reader.stop();
    },
  };
}
