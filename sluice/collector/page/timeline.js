// When a task waited and when it ran, attempt by attempt.
//
// Promises: waiting, being put off and running differ by texture and word as well as by colour;
// what is shorter than a pixel is still seen; what goes on ends at the collector's now.

import { el, fill } from "./dom.js";
import { duration, fullTime, ms, nowMs, time } from "./format.js";
import { chip, raw } from "./parts.js";

const WORDS = { delay: "put off", wait: "waited", run: "ran" };
const GOES_ON = new Set(["queued", "scheduled", "active", "unknown"]);

/** The parts of an attempt: [{kind, from, to, seconds, open}], times in milliseconds. */
function parts(attempt, now) {
  const queued = ms(attempt.queuedAt);
  const due = ms(attempt.scheduledFor);
  const started = ms(attempt.startedAt);
  const ended = ms(attempt.endedAt);
  const open = ended === null && GOES_ON.has(attempt.state);
  const end = ended ?? (open ? now : (started ?? queued));
  const found = [];
  const add = (kind, from, to, seconds, goesOn, endless) => {
    if (from === null || to === null || to < from) return;
    found.push({ kind, from, to, seconds: seconds ?? (to - from) / 1000, open: goesOn, endless });
  };
  const until = started ?? end;
  const waitsFrom = due !== null && queued !== null && due > queued ? Math.min(due, until) : queued;
  if (waitsFrom !== queued) add("delay", queued, waitsFrom, null, open && started === null && due > now);
  if (queued !== null && !(open && started === null && due !== null && due > now)) {
    add("wait", waitsFrom, until, attempt.wait, open && started === null);
  }
  if (started !== null) add("run", started, end, attempt.run, open, ended === null && !open);
  return found;
}

function told(part) {
  if (part.endless) return "ran until nobody knows when";
  if (!part.open) return `${WORDS[part.kind]} ${duration(part.seconds)}`;
  return `${{ delay: "put off, so far", wait: "waiting for", run: "running for" }[part.kind]} ${duration(part.seconds)}`;
}

/** Draw the timeline of `attempts` into `box`. Returns whether something goes on. */
export function drawTimeline(box, attempts) {
  const now = nowMs();
  const all = attempts.map((attempt) => ({ attempt, parts: parts(attempt, now) }));
  const moments = all.flatMap((one) => one.parts.flatMap((part) => [part.from, part.to]));
  if (!moments.length) {
    fill(box, el("p", { class: "note" }, "No times are known of it."));
    return false;
  }
  const from = Math.min(...moments);
  const span = Math.max(1, Math.max(...moments) - from);
  const bar = (part) => {
    const node = el("span", {
      class: `part part-${part.kind}`,
      title: `${told(part)}, from ${fullTime(new Date(part.from).toISOString())}`,
    });
    node.style.left = `${((part.from - from) / span) * 100}%`;
    node.style.width = `${((part.to - part.from) / span) * 100}%`;
    return node;
  };
  fill(
    box,
    el(
      "p",
      { class: "legend", "aria-hidden": "true" },
      ["delay", "wait", "run"]
        .filter((kind) => all.some((one) => one.parts.some((part) => part.kind === kind)))
        .map((kind) =>
          el(
            "span",
            null,
            el("i", { class: `part-${kind}` }),
            { delay: "put off", wait: "wait", run: "run" }[kind],
          ),
        ),
    ),
    el(
      "ol",
      { class: "bars" },
      all.map(({ attempt, parts: found }) =>
        el(
          "li",
          null,
          el(
            "p",
            { class: "bar-head" },
            el("strong", null, `Attempt ${attempt.attempt ?? "?"}`),
            chip(attempt.state),
            attempt.worker && raw(attempt.worker, { class: "note" }),
          ),
          el(
            "div",
            {
              class: "track",
              role: "img",
              "aria-label": `Attempt ${attempt.attempt ?? ""}: ${found.map(told).join(", ") || "no times known"}`,
            },
            found.map(bar),
          ),
          el(
            "p",
            { class: "figures", "aria-hidden": "true" },
            found.map((part) => el("span", null, told(part))),
          ),
        ),
      ),
    ),
    el(
      "p",
      { class: "axis" },
      el("span", null, time(new Date(from).toISOString())),
      el("span", null, `${duration(span / 1000)} in all`),
    ),
  );
  return all.some((one) => one.parts.some((part) => part.open));
}
