// One row of the table of tasks.
//
// Promises: one link in each row, which the whole row leads to; the roles are written out, since
// a narrow window shows rows as cards and would take them from the table.

import { el } from "./dom.js";
import { duration } from "./format.js";
import { badges, chip, moment, raw, taskLink } from "./parts.js";

const cell = (name, ...content) => el("td", { class: name, role: "cell" }, ...content);

/** The row of a task, or of one that is being read. */
export function row(job) {
  if (job.missing) return el("tr", { role: "row", class: "missing" }, cell("state", "…"));
  return el(
    "tr",
    { role: "row", "data-id": job.id, "data-state": job.state },
    cell("state", chip(job.state)),
    cell(
      "name",
      el(
        "span",
        { class: "line" },
        taskLink(job.id, job.name, { title: job.name }),
        badges(job),
        (job.exception || job.error) &&
          el("span", { class: "why", title: job.error }, raw(job.exception ?? job.error)),
      ),
    ),
    cell("id", raw(job.id, { title: job.id })),
    cell("queue", raw(job.queue ?? "–", { title: job.queue })),
    cell("worker", raw(job.worker ?? "–", { title: job.worker })),
    cell(
      "attempt num",
      job.attempt > 1
        ? `${job.attempt}${job.maxRetries === null ? "" : `/${job.maxRetries + 1}`}`
        : (job.attempt ?? "–"),
    ),
    cell("seen num", moment(job.seenAt)),
    cell("wait num", duration(job.wait)),
    cell("run num", duration(job.run)),
  );
}

/** What a row shows: while this stays the same, so does its element. */
export const signature = (job) =>
  job.missing
    ? ""
    : [job.state, job.changedAt, job.attempt, job.worker, job.wait, job.run, job.error, job.badges].join(
        "\0",
      );
