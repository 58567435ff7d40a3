// Small charts, drawn as SVG.
//
// Promises: each has a text alternative that is kept true, lines differ by dash as well as by
// colour, a gap in the data is a gap in the line, and an update moves points, not elements.

import { el, fill, svg } from "./dom.js";
import { time } from "./format.js";

const W = 300;
const H = 72;

function niceTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= value);
}

function path(values, top) {
  const x = (at) => ((at / Math.max(1, values.length - 1)) * W).toFixed(1);
  let d = "";
  let down = false;
  values.forEach((value, at) => {
    if (value === null) {
      down = false;
      return;
    }
    const y = (H - 2 - (Math.min(value, top) / top) * (H - 6)).toFixed(1);
    d += down ? `L${x(at)} ${y}` : `M${x(at)} ${y}h.01`;
    down = true;
  });
  return d;
}

/**
 * A line chart. `lines`: [{name, of(point)}] (the first solid, the second dashed), `show(value)` makes
 * a text. Returns {node, update(points, step, now)}: points [{at, ...}], `step` their distance in
 * seconds, `now` one number per line for its head.
 */
export function lineChart({ id, title, lines, show }) {
  const paths = lines.map((_, at) => svg("path", { class: `line line-${at + 1}` }));
  const cursor = svg("path", { class: "cursor" });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": title },
    svg("path", { class: "grid", d: `M0 4H${W}M0 ${H / 2 + 1}H${W}M0 ${H - 2}H${W}` }),
    cursor,
    [...paths].reverse(),
  );
  const heads = lines.map(() => el("strong"));
  const top = el("span", { class: "top", "aria-hidden": "true" });
  const left = el("span");
  const right = el("span", null, "now");
  const node = el(
    "figure",
    { class: "chart", id },
    el(
      "figcaption",
      null,
      el("h3", null, title),
      el(
        "p",
        { class: "heads" },
        lines.map((line, at) =>
          el(
            "span",
            null,
            lines.length > 1 &&
              svg(
                "svg",
                { class: "swatch", viewBox: "0 0 16 4", "aria-hidden": "true" },
                svg("path", { class: `line line-${at + 1}`, d: "M0 2H16" }),
              ),
            line.name && `${line.name} `,
            heads[at],
          ),
        ),
      ),
    ),
    el("div", { class: "plot" }, picture, top),
    el("p", { class: "axis", "aria-hidden": "true" }, left, right),
  );
  let points = [];
  let span = "";

  const values = (line) => points.map((point) => line.of(point) ?? null);
  const readOut = (event) => {
    const box = picture.getBoundingClientRect();
    const at = Math.round(((event.clientX - box.left) / box.width) * (points.length - 1));
    const point = points[at];
    if (!point) return;
    cursor.setAttribute("d", `M${(at / Math.max(1, points.length - 1)) * W} 0V${H}`);
    fill(
      right,
      `${time(point.at)}: `,
      lines.map((line) => `${line.name} ${show(line.of(point) ?? null)}`.trim()).join(", "),
    );
  };
  const forget = () => {
    cursor.setAttribute("d", "");
    right.textContent = "now";
  };
  picture.addEventListener("pointermove", readOut);
  picture.addEventListener("pointerleave", forget);

  return {
    node,
    update(series, step, now) {
      points = series;
      span = `${Math.round((series.length * step) / 60)} min`;
      const all = lines.flatMap(values).filter((value) => value !== null);
      const high = niceTop(Math.max(0, ...all));
      lines.forEach((line, at) => {
        paths[at].setAttribute("d", path(values(line), high));
        heads[at].textContent = show(now[at]);
      });
      top.textContent = all.length ? show(high) : "";
      left.textContent = `${span} ago`;
      const told = lines.map((line, at) => {
        const known = values(line).filter((value) => value !== null);
        const most = known.length ? `, at most ${show(Math.max(...known))}` : "";
        return `${line.name} ${show(now[at])}${most}`.trim();
      });
      picture.setAttribute("aria-label", `${title} over the last ${span}. Last minute: ${told.join("; ")}.`);
    },
  };
}

/** Bars for a few counts, oldest first; `label` is its text alternative. */
export function spark(counts, label) {
  const most = Math.max(1, ...counts);
  const wide = 96 / Math.max(1, counts.length);
  return svg(
    "svg",
    { class: "spark", viewBox: "0 0 96 20", width: 96, height: 20, role: "img", "aria-label": label },
    counts.map((n, at) => {
      const high = n ? Math.max(2, (n / most) * 20) : 1;
      return svg("rect", {
        class: n ? null : "zero",
        x: (at * wide).toFixed(2),
        y: (20 - high).toFixed(2),
        width: Math.max(1, wide - 1).toFixed(2),
        height: high.toFixed(2),
      });
    }),
  );
}
