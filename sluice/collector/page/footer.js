// The line at the bottom: what is kept, and what is not here and why.
//
// Promises: what was dropped, lost, pruned or refused is always in sight, and stands out as soon
// as it is more than nothing.

import { el, fill } from "./dom.js";
import { bytes, count, fullTime, plural } from "./format.js";
import { href } from "./route.js";

/** Returns a function that shows an answer of /api/now in `footer`; `clear()` asks to clear. */
export function footerLine(footer, clear) {
  const kept = el("span", { id: "kept" });
  const figure = (id, word, title, link) => {
    const number = el("strong");
    const node = el(
      link ? "a" : "span",
      { id, class: "figure", title, href: link || null },
      `${word} `,
      number,
    );
    return {
      node,
      show: (n) => {
        number.textContent = count(n);
        node.classList.toggle("some", n > 0);
      },
    };
  };
  const dropped = figure(
    "dropped",
    "Dropped by SDK",
    "Events that the SDKs could not keep or deliver: what is shown is incomplete by so many",
  );
  const lost = figure(
    "lost",
    "Lost",
    "Tasks that can no longer finish: their worker is gone, or their end never came",
    href({ view: "tasks", state: ["lost"] }),
  );
  const pruned = figure("pruned", "Pruned", "Tasks removed to keep within the limits of rows, bytes and age");
  const refused = figure("refused", "Refused", "Requests with a key that this collector does not accept");
  const invalid = figure("invalid", "Invalid", "Events that did not fit the contract and were not taken");
  const version = el("span", { id: "version", class: "note" });
  fill(
    footer,
    kept,
    dropped.node,
    lost.node,
    pruned.node,
    refused.node,
    invalid.node,
    el("span", { class: "gap" }),
    version,
    el("button", { id: "clear-open", type: "button", class: "small", on: { click: clear } }, "Clear…"),
  );
  return (now) => {
    const all = now.kept;
    kept.textContent = `${plural(all.tasks, "task")} kept, ${bytes(all.bytes)}`;
    kept.title = `${plural(all.events, "event")}; at most ${plural(all.maxTasks, "task")}, ${bytes(all.maxBytes)} and ${Math.round(all.maxAge / 3600)} h are kept. Heard since ${fullTime(now.heard.since)}`;
    dropped.show(now.dropped);
    lost.show(now.lost);
    pruned.show(now.pruned);
    refused.show(now.heard.refusedKeys);
    invalid.show(now.heard.invalid);
    refused.node.hidden = !now.heard.refusedKeys;
    invalid.node.hidden = !now.heard.invalid;
    version.textContent = now.version ? `Sluice ${now.version}` : "";
  };
}
