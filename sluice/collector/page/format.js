// Numbers and times as people read them.
//
// Promises: pure but for the clock, never throws for null, and shows a dash for what is not
// known. Durations are given in seconds, times as ISO 8601 texts; times are shown in the
// reader's zone, and "now" is the collector's.

export const NONE = "–";

const number = new Intl.NumberFormat("en");
const clockFormat = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const dayFormat = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
const fullFormat = new Intl.DateTimeFormat("en-GB", {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  timeZoneName: "short",
});
let skew = 0;

/** Take the collector's clock for ours. */
export function setClock(iso) {
  const at = Date.parse(iso);
  if (at) skew = at - Date.now();
}

/** The collector's time, in milliseconds since 1970. */
export function nowMs() {
  return Date.now() + skew;
}

/** An ISO time in milliseconds since 1970, or null. */
export function ms(iso) {
  const at = iso ? Date.parse(iso) : NaN;
  return Number.isNaN(at) ? null : at;
}

export function count(n) {
  return Number.isFinite(n) ? number.format(n) : NONE;
}

export function duration(s) {
  if (s === null || !Number.isFinite(s)) return NONE;
  if (s < 0) return "0 ms";
  if (s < 0.00995) return `${(s * 1000).toFixed(1)} ms`;
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.995) return `${s.toFixed(2)} s`;
  if (s < 59.95) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} m`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

export function percent(share) {
  if (share === null || !Number.isFinite(share)) return NONE;
  const p = share * 100;
  if (p > 0 && p < 0.1) return "<0.1 %";
  return `${p === 0 || p === 100 ? p : p.toFixed(1)} %`;
}

export function perSecond(n) {
  if (n === null || !Number.isFinite(n)) return NONE;
  return `${n >= 100 ? count(Math.round(n)) : n >= 10 ? n.toFixed(1) : Number(n.toFixed(2))}/s`;
}

export function bytes(n) {
  if (!Number.isFinite(n)) return NONE;
  for (const [unit, size] of [
    ["GiB", 2 ** 30],
    ["MiB", 2 ** 20],
    ["KiB", 1024],
  ]) {
    if (n >= size) return `${Number((n / size).toFixed(1))} ${unit}`;
  }
  return `${n} B`;
}

/** The time of day, with the date where that is not today. */
export function time(iso) {
  const at = ms(iso);
  if (at === null) return NONE;
  const date = new Date(at);
  return date.toDateString() === new Date().toDateString()
    ? clockFormat.format(date)
    : dayFormat.format(date);
}

/** The whole of a time, to the millisecond. */
export function fullTime(iso) {
  const at = ms(iso);
  return at === null ? NONE : fullFormat.format(new Date(at));
}

/** How long ago, roughly. */
export function ago(iso) {
  const at = ms(iso);
  if (at === null) return NONE;
  return `${rough((nowMs() - at) / 1000)} ago`;
}

/** A duration in one unit. */
export function rough(s) {
  if (s === null || !Number.isFinite(s)) return NONE;
  for (const [unit, size] of [
    ["d", 86400],
    ["h", 3600],
    ["m", 60],
  ]) {
    if (s >= size) return `${Math.floor(s / size)} ${unit}`;
  }
  return `${Math.max(0, Math.floor(s))} s`;
}

export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}
