// The view "Now": how fast, how well, how long; queues and workers.
//
// Promises: what it shows is at most a beat old; workers that are gone are folded away, and
// stay unfolded while the reader wants them.

import { Reader } from "./api.js";
import { lineChart } from "./charts.js";
import { diagnose } from "./diagnosis.js";
import { el, keyed } from "./dom.js";
import { count, duration, ms, percent, perSecond, plural, rough } from "./format.js";
import { chip, raw, table, taskLink, tasksLink } from "./parts.js";
import { href, STATES } from "./route.js";

const STEP = 5;
const none = (n) => (n === null || n === undefined ? "–" : count(n));

function queueTable() {
  return table({
    id: "queues",
    label: "Queues",
    empty: "No queue is known yet.",
    key: (queue) => queue.name,
    columns: [
      { label: "Queue", cell: (queue) => tasksLink({ queue: queue.name }, queue.name || "(no name)") },
      { label: "Waiting", num: true, cell: (queue) => none(queue.waiting) },
      { label: "Scheduled", num: true, cell: (queue) => none(queue.scheduled) },
      { label: "Active", num: true, cell: (queue) => none(queue.active) },
      { label: "Workers", num: true, cell: (queue) => none(queue.workers) },
      { label: "In the broker", num: true, cell: (queue) => none(queue.depth) },
    ],
  });
}

function average(number) {
  return Number.isFinite(number) ? number.toFixed(2) : "–";
}

function load(worker) {
  if (!worker.concurrency) return none(worker.active);
  return [
    `${count(worker.active ?? 0)}/${count(worker.concurrency)}`,
    el("meter", { min: 0, max: worker.concurrency, value: worker.active ?? 0, "aria-hidden": "true" }),
  ];
}

function reason(worker) {
  return { killed: "killed", silent: "went silent" }[worker.reason] ?? worker.reason ?? "";
}

function suspects(worker) {
  const list = worker.suspects ?? [];
  if (!list.length) return "–";
  return list
    .slice(0, 3)
    .flatMap((job, at) => [at ? ", " : "", taskLink(job.id, job.name)])
    .concat(list.length > 3 ? ` and ${count(list.length - 3)} more` : "");
}

function workerTable(offline) {
  const name = { label: "Worker", cell: (worker) => tasksLink({ worker: worker.id }, worker.id) };
  const pool = { label: "Pool", cell: (worker) => raw(worker.pool ?? "–") };
  const state = {
    label: "State",
    cell: (worker) => [chip(worker.state), offline && reason(worker) && ` ${reason(worker)}`],
  };
  const processed = { label: "Processed", num: true, cell: (worker) => none(worker.processed) };
  const age = {
    label: offline ? "Last heard" : "Heartbeat",
    num: true,
    cell: (worker) => (worker.heartbeatAge === null ? "–" : `${rough(worker.heartbeatAge)} ago`),
  };
  const live = [
    { label: "Active", num: true, class: "load", cell: load },
    processed,
    { label: "Queues", cell: (worker) => raw((worker.queues ?? []).join(", ") || "–") },
    { label: "Load", num: true, cell: (worker) => average(worker.loadAverage?.[0]) },
    {
      label: "Runs",
      cell: (worker) => raw([worker.software, worker.version].filter(Boolean).join(" ") || "–"),
    },
  ];
  const gone = [processed, { label: "Was running", cell: suspects }];
  return table({
    id: offline ? "workers-offline" : "workers",
    label: offline ? "Workers that are offline" : "Workers",
    empty: offline ? "" : "No worker is online.",
    key: (worker) => worker.id,
    // Ages by the second: the rest of a row seldom changes.
    signature: (worker) => JSON.stringify({ ...worker, heartbeatAge: rough(worker.heartbeatAge) }),
    columns: [name, state, pool, age, ...(offline ? gone : live)],
  });
}

/** Shows the view in `main`. */
export function nowView(main, _route, app) {
  const charts = {
    throughput: lineChart({
      id: "chart-throughput",
      title: "Throughput",
      show: perSecond,
      lines: [{ name: "", of: (point) => point.ended / STEP }],
    }),
    failures: lineChart({
      id: "chart-failures",
      title: "Failure rate",
      show: percent,
      lines: [{ name: "", of: (point) => (point.ended ? point.failed / point.ended : null) }],
    }),
    wait: lineChart({
      id: "chart-wait",
      title: "Wait",
      show: duration,
      lines: [
        { name: "p50", of: (point) => point.waitP50 },
        { name: "p95", of: (point) => point.waitP95 },
      ],
    }),
    run: lineChart({
      id: "chart-run",
      title: "Run",
      show: duration,
      lines: [
        { name: "p50", of: (point) => point.runP50 },
        { name: "p95", of: (point) => point.runP95 },
      ],
    }),
  };
  const why = el("div");
  const states = el("ul", { id: "states", class: "states", "aria-label": "Tasks by state" });
  const queues = queueTable();
  const online = workerTable(false);
  const offline = workerTable(true);
  const fold = el("summary");
  const folded = el("details", { id: "offline", hidden: true }, fold, offline.node);
  main.append(
    el("h1", { tabindex: -1, class: "unseen" }, "Now"),
    why,
    states,
    el(
      "section",
      { class: "charts" },
      el("h2", { class: "unseen" }, "The last five minutes"),
      Object.values(charts).map((chart) => chart.node),
    ),
    el("section", null, el("h2", null, "Queues"), queues.node),
    el("section", null, el("h2", null, "Workers"), online.node, folded),
  );

  const readers = [
    new Reader(
      () => "/api/queues",
      (answer) => queues.update(answer.queues),
      () => 1000,
    ),
    new Reader(
      () => "/api/workers",
      (answer) => {
        const gone = answer.workers.filter((worker) => worker.state === "offline");
        online.update(answer.workers.filter((worker) => worker.state !== "offline"));
        offline.update(gone);
        folded.hidden = gone.length === 0;
        fold.textContent = `${plural(gone.length, "worker")} offline`;
      },
      () => 1000,
    ),
  ];
  readers.forEach((reader) => reader.wake());

  return {
    changed: () => readers.forEach((reader) => reader.wake()),
    now(now) {
      diagnose(why, now, app.say);
      // The bucket that is not over yet would always look like a drop.
      const over = now.series.filter((point) => ms(point.at) + STEP * 1000 <= ms(now.at));
      const { last } = now;
      charts.throughput.update(over, STEP, [last.throughput]);
      charts.failures.update(over, STEP, [last.failureRate]);
      charts.wait.update(over, STEP, [last.waitP50, last.waitP95]);
      charts.run.update(over, STEP, [last.runP50, last.runP95]);
      keyed(
        states,
        STATES.filter((state) => now.counts[state]),
        {
          key: (state) => state,
          signature: (state) => now.counts[state],
          make: (state) =>
            el(
              "li",
              null,
              el(
                "a",
                { href: href({ view: "tasks", state: [state] }) },
                el("strong", null, count(now.counts[state])),
                chip(state),
              ),
            ),
        },
      );
    },
    stop: () => readers.forEach((reader) => reader.stop()),
  };
}
