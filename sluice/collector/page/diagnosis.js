// Why there is nothing to see, and the line that changes it.
//
// Promises: each of the four reasons the collector can tell (nothing received, key rejected,
// no task yet) or can only guess (switched off) is named with its remedy, ready to copy.

import { el } from "./dom.js";
import { ago, count } from "./format.js";
import { copyButton } from "./parts.js";

// A collector takes any UUID; the SDK wants one.
const ANY_CONNECTION = "00000000-0000-4000-8000-000000000000";
const USUAL = ["http://127.0.0.1:5580", "http://localhost:5580"];

function line(code, said) {
  return el(
    "div",
    { class: "code" },
    el("code", null, code),
    copyButton("Copy", () => code, said),
  );
}

function step(title, ...content) {
  return el("li", null, el("h3", null, title), ...content);
}

/** The text for what /api/now says, or null where there is nothing to explain. */
export function diagnosis(now, said) {
  const here = USUAL.includes(location.origin) ? "1" : location.origin;
  const doctor = step(
    "Still nothing?",
    el("p", null, "This says what the SDK sees, from where, and whether it gets here:"),
    line("sluice doctor", said),
  );
  const on = now.keyRequired
    ? line(
        `unset SLUICE_DEV; export SLUICE_API_URL=${location.origin}/api SLUICE_API_KEY=sk_… SLUICE_CONNECTION_ID=${ANY_CONNECTION}`,
        said,
      )
    : line(`export SLUICE_DEV=${here}`, said);
  const kinds = {
    nothing: () => [
      "Nothing received yet",
      "No event has reached this collector. One of these is why:",
      [
        step(
          "The SDK does not know of this collector",
          el("p", null, "Set this where workers, web server and scripts are started, and start them anew:"),
          on,
        ),
        step(
          "It is not called",
          el("p", null, "Where the Celery app is made:"),
          line("import sluice; sluice.init()", said),
        ),
        step(
          "It is switched off",
          el("p", null, "SLUICE_ENABLED=0 or enabled=False makes init() do nothing:"),
          line("export SLUICE_ENABLED=1", said),
        ),
        doctor,
      ],
    ],
    key_rejected: () => [
      "The key is rejected",
      `${count(now.heard.refusedKeys)} requests were refused, the last ${ago(now.heard.lastRefusedAt)}: someone sends, but not with the key that this collector was started with.`,
      [
        step(
          now.keyRequired ? "Use the collector's key, which it printed or was given" : "A key starts with sk_; none is needed",
          el("p", null, "Where workers, web server and scripts are started:"),
          on,
        ),
        doctor,
      ],
    ],
    no_tasks: () => [
      "A worker is here, but no task yet",
      "Workers report to this collector. As soon as a task is sent it is on this page.",
      [
        step(
          "Send one",
          line("task.delay()", said),
          el("p", null, "or by its name:"),
          line('app.send_task("package.module.task")', said),
        ),
        step(
          "Sent, but not here?",
          el(
            "p",
            null,
            "Perhaps to a queue that no worker listens to (see Queues and Workers), or by a process without this:",
          ),
          on,
        ),
        doctor,
      ],
    ],
  };
  if (!Object.hasOwn(kinds, now.diagnosis)) return null;
  const [title, text, steps] = kinds[now.diagnosis]();
  return el(
    "section",
    { class: "diagnosis", "data-diagnosis": now.diagnosis, "aria-labelledby": "diagnosis-title" },
    el("h2", { id: "diagnosis-title" }, title),
    el("p", null, text),
    el("ol", null, steps),
  );
}

/** Keeps `box` showing the diagnosis; returns whether there is one. */
export function diagnose(box, now, said) {
  if (box.dataset.of === now.diagnosis && now.diagnosis !== "key_rejected") return box.childNodes.length > 0;
  if (box.contains(document.activeElement)) return true;
  box.dataset.of = now.diagnosis;
  const found = diagnosis(now, said);
  box.replaceChildren(...(found ? [found] : []));
  return found !== null;
}
