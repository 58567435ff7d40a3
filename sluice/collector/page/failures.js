// The view "Failures": what fails, grouped by exception and task.
//
// Promises: each group leads to exactly its tasks, and to the latest of them.

import { Reader } from "./api.js";
import { diagnose } from "./diagnosis.js";
import { el } from "./dom.js";
import { count, duration, plural } from "./format.js";
import { moment, raw, table, taskLink, tasksLink } from "./parts.js";
import { spark } from "./charts.js";

const BARS = 24;

/** Shows the view in `main`. */
export function failuresView(main, _route, app) {
  let span = "";
  const why = el("div");
  const failures = table({
    id: "failures",
    label: "Failures by exception and task",
    empty: "Nothing has failed.",
    key: (group) => `${group.name}\0${group.exception}`,
    columns: [
      {
        label: "Exception",
        class: "wide",
        cell: (group) => [
          tasksLink(
            { state: ["failed"], name: group.name, exception: group.exception ?? "" },
            group.exception ?? "(not known)",
          ),
          group.error && el("span", { class: "why", title: group.error }, raw(group.error)),
        ],
      },
      { label: "Task", class: "wide", cell: (group) => raw(group.name, { title: group.name }) },
      { label: "Count", num: true, cell: (group) => count(group.count) },
      {
        label: "When",
        cell: (group) =>
          spark(
            group.spark,
            `${plural(
              group.spark.reduce((sum, n) => sum + n, 0),
              "failure",
            )} ${span}`,
          ),
      },
      { label: "First", num: true, cell: (group) => moment(group.firstAt) },
      { label: "Last", num: true, cell: (group) => moment(group.lastAt) },
      {
        label: "Latest",
        cell: (group) =>
          group.jobId &&
          taskLink(group.jobId, "Open", {
            "aria-label": `Latest ${group.exception ?? "failure"} of ${group.name}`,
          }),
      },
    ],
  });
  const note = el("span", { class: "note" });
  main.append(el("div", { class: "bar" }, el("h1", { tabindex: -1 }, "Failures"), note), why, failures.node);
  const reader = new Reader(
    () => "/api/failures",
    (answer) => {
      span = `in the last ${duration(answer.sparkSeconds * BARS)}`;
      note.textContent = answer.failures.length ? `Bars: how many, ${span}` : "";
      failures.update([...answer.failures].sort((a, b) => b.count - a.count));
    },
    () => 1000,
  );
  reader.wake();
  return {
    changed: () => reader.wake(),
    now: (now) => diagnose(why, now, app.say),
    stop: () => reader.stop(),
  };
}
