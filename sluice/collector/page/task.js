// The view of one task: what became of it, when, and everything that was heard.
//
// Promises: a refresh changes only what has changed: what is unfolded stays so, and what is
// selected stays selected. Raw events are made readable only when they are opened.

import { ApiError, Reader } from "./api.js";
import { el, fill, keyed } from "./dom.js";
import { familyTree } from "./family.js";
import { count, duration, fullTime, ms, plural } from "./format.js";
import { badges, BADGES, chip, copyButton, moment, raw, taskLink, tasksLink } from "./parts.js";
import { drawTimeline } from "./timeline.js";

const MOST_EVENTS = 1000;
const ENDED = new Set(["completed", "failed", "cancelled", "lost"]);

function section(id, title, ...content) {
  return el(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title` }, title),
    ...content,
  );
}

function facts(job) {
  const one = (word, value) =>
    value !== null && value !== undefined && el("div", null, el("dt", null, word), el("dd", null, value));
  const retries = job.retries ?? Math.max(0, (job.attempt ?? 1) - 1);
  return [
    one("Queue", job.queue && tasksLink({ queue: job.queue }, job.queue)),
    one("Worker", job.worker && tasksLink({ worker: job.worker }, job.worker)),
    one("Attempt", job.attempt && count(job.attempt)),
    one(
      "Retries",
      job.maxRetries === null ? count(retries) : `${count(retries)} of at most ${count(job.maxRetries)}`,
    ),
    one("Waited", duration(job.wait)),
    one("Ran", duration(job.run)),
    one("Created", job.createdAt && moment(job.createdAt)),
    one("Due", job.scheduledFor && moment(job.scheduledFor)),
    one("Started", job.startedAt && moment(job.startedAt)),
    one("Ended", job.completedAt && moment(job.completedAt)),
    one("Parent", job.parentId && taskLink(job.parentId, job.parentId)),
    one("Root", job.rootId && job.rootId !== job.id && taskLink(job.rootId, job.rootId)),
  ];
}

/** Shows the view in `main`. */
export function taskView(main, route, app) {
  let job = null;
  let ticking = 0;
  const open = new Map();
  const painted = new Map();
  const title = el("h1", { tabindex: -1 }, "Task");
  const marks = el("p", { class: "marks" });
  const meanings = el("ul", { class: "meanings" });
  const missing = el("div", { id: "missing", hidden: true });
  const facing = el("dl", { id: "facts", class: "facts" });
  const timeline = el("div", { id: "timeline" });
  const fault = el("div");
  const attempts = el("ol", { class: "attempts" });
  const tree = el("div");
  const events = el("ol", { class: "events" });
  const eventsFold = el("summary");
  const sections = el(
    "div",
    { hidden: true },
    facing,
    section("times", "Timeline", timeline),
    section("error", "Error", fault),
    section("attempts", "Attempts", attempts),
    section("family", "Family", tree),
    section("events", "Raw events", el("details", null, eventsFold, events)),
  );
  main.append(
    el("p", null, el("a", { href: app.tasksHref(), id: "to-tasks" }, "← Tasks")),
    title,
    el(
      "p",
      { class: "ident" },
      el("code", { id: "task-id" }, raw(route.id)),
      copyButton("Copy id", () => route.id, app.say),
    ),
    marks,
    meanings,
    missing,
    sections,
  );
  const reader = new Reader(
    () => `/api/jobs/${encodeURIComponent(route.id)}`,
    came,
    () => (ENDED.has(job?.state) ? 4000 : 500),
    gone,
  );
  const clock = setInterval(() => ticking && !document.hidden && drawTimeline(timeline, job.attempts), 1000);
  reader.wake();

  /** Call `paint` where `data` is not what it was. */
  function when(name, data, paint) {
    const now = JSON.stringify(data);
    if (painted.get(name) === now) return;
    painted.set(name, now);
    paint();
  }

  function fold(key, unfolded, summary, content) {
    const node = el("details", { open: open.get(key) ?? unfolded }, el("summary", null, summary));
    const make = () => node.open && node.childElementCount === 1 && node.append(...[content()].flat());
    node.addEventListener("toggle", () => {
      open.set(key, node.open);
      make();
    });
    make();
    return node;
  }

  function traceback(text) {
    return el(
      "div",
      { class: "trace" },
      el("pre", { tabindex: 0, role: "region", "aria-label": "Traceback" }, raw(text)),
      copyButton("Copy traceback", () => text, app.say),
    );
  }

  function attempt(one) {
    const told = one.exception || one.error;
    return el(
      "li",
      null,
      el(
        "p",
        { class: "bar-head" },
        el("strong", null, `Attempt ${one.attempt ?? "?"}`),
        chip(one.state),
        one.worker && raw(one.worker, { class: "note" }),
        el("span", { class: "note" }, `waited ${duration(one.wait)}, ran ${duration(one.run)}`),
        one.startedAt && el("span", { class: "note" }, "started ", moment(one.startedAt)),
      ),
      told &&
        el(
          "p",
          { class: "error-text" },
          one.exception && el("strong", null, raw(one.exception)),
          one.exception && one.error && ": ",
          raw(one.error ?? ""),
        ),
      one.stacktrace && fold(`trace ${one.attempt}`, false, "Traceback", () => traceback(one.stacktrace)),
    );
  }

  function event({ seq, receivedAt, event: sent }) {
    const at = sent?.timestamp;
    const first = ms(job.events[0]?.event?.timestamp);
    const off = ms(at) === null || first === null ? "" : ` +${duration((ms(at) - first) / 1000)}`;
    const label = [
      moment(at),
      el("span", { class: "note" }, off),
      chip(sent?.job?.state ?? "unknown"),
      sent?.job?.attempt && el("span", null, `attempt ${sent.job.attempt}`),
      raw(sent?.job?.extensions?.celeryEvent ?? "", { class: "note" }),
    ];
    return el(
      "li",
      null,
      fold(`event ${seq}`, false, label, () => [
        el("p", { class: "note" }, `No. ${seq}, received ${fullTime(receivedAt)}`),
        el(
          "pre",
          { tabindex: 0, role: "region", "aria-label": "Event as it was sent" },
          raw(JSON.stringify(sent, null, 2)),
        ),
      ]),
    );
  }

  function gone(error) {
    if (!(error instanceof ApiError) || error.status !== 404) return false;
    missing.hidden = false;
    sections.hidden = true;
    fill(
      missing,
      el(
        "p",
        null,
        "This task is not here: nothing was heard of it yet, or it was pruned or cleared. It will appear here as soon as something is heard.",
      ),
    );
    return true;
  }

  function came(answer) {
    job = answer;
    missing.hidden = true;
    sections.hidden = false;
    app.title(job.name);
    when("head", [job.name, job.state, job.badges], () => {
      fill(title, raw(job.name));
      fill(marks, chip(job.state), badges(job));
      fill(
        meanings,
        (job.badges ?? []).map((badge) => el("li", null, BADGES[badge]?.[1] ?? badge)),
      );
    });
    const { events: heard, family, attempts: tries, ...rest } = job;
    when("facts", rest, () => fill(facing, facts(job)));
    when("times", tries, () => (ticking = drawTimeline(timeline, tries)));
    when("error", [job.exception, job.error, job.stacktrace], () => {
      fault.parentNode.hidden = !job.error && !job.exception && !job.stacktrace;
      fill(
        fault,
        el(
          "p",
          { class: "error-text" },
          job.exception && el("strong", null, raw(job.exception)),
          job.exception && job.error && ": ",
          raw(job.error ?? ""),
        ),
        job.stacktrace && fold("trace", true, "Traceback", () => traceback(job.stacktrace)),
      );
    });
    keyed(attempts, tries, { key: (one) => one.attempt, signature: JSON.stringify, make: attempt });
    when("family", family, () => fill(tree, familyTree(family, job.id)));
    eventsFold.textContent = `${plural(heard.length, "event")}${heard.length >= MOST_EVENTS ? " (no more are shown)" : ""}`;
    keyed(events, heard, { key: (one) => one.seq, signature: (one) => one.seq, make: event });
  }

  return {
    changed: () => reader.wake(),
    stop() {
      clearInterval(clock);
      reader.stop();
    },
  };
}
