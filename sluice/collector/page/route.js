// The page's state is its URL: which view, which filters, which order.
//
// Promises: pure; what a URL says that the collector would refuse (an unknown state or order, a
// time that is none) is left out, so that a bad link shows tasks and not an error.

export const VIEWS = ["now", "tasks", "task", "failures", "names"];
export const STATES = [
  "queued",
  "scheduled",
  "active",
  "retrying",
  "completed",
  "failed",
  "lost",
  "cancelled",
  "unknown",
];
export const SORTS = {
  newest: "Newest first",
  oldest: "Oldest first",
  slowest: "Longest run",
  waited: "Longest wait",
};
/** Ranges that move along with the clock, in seconds. */
export const RANGES = { "5m": 300, "15m": 900, "1h": 3600, "6h": 21600, "24h": 86400 };
/** What failed, or will never be known not to have. */
export const FAILURES = ["failed", "lost"];

/** The collector refuses longer texts. */
const MOST = 1024;
const SINGLE = ["q", "name", "queue", "worker", "exception"];

/** The state that a query text describes. */
export function read(search) {
  const query = new URLSearchParams(search);
  const view = VIEWS.includes(query.get("view")) ? query.get("view") : "now";
  const route = { view, id: query.get("id") ?? "", by: query.get("by") ?? "" };
  route.state = STATES.filter((state) => query.getAll("state").includes(state));
  for (const name of SINGLE) route[name] = (query.get(name) ?? "").replaceAll("\0", "").slice(0, MOST);
  route.range = Object.hasOwn(RANGES, query.get("range") ?? "") ? query.get("range") : "";
  for (const name of ["since", "until"]) {
    const text = query.get(name) ?? "";
    route[name] = text && !Number.isNaN(Date.parse(text)) ? text : "";
  }
  route.sort = Object.hasOwn(SORTS, query.get("sort") ?? "") ? query.get("sort") : "newest";
  return route;
}

/** The link to a state; what is not in `route` has its default. */
export function href(route) {
  const query = new URLSearchParams();
  const { view = "now" } = route;
  if (view !== "now") query.set("view", view);
  for (const state of route.state ?? []) query.append("state", state);
  for (const name of ["id", "by", ...SINGLE, "range", "since", "until"]) {
    if (route[name]) query.set(name, route[name]);
  }
  if (route.sort && route.sort !== "newest") query.set("sort", route.sort);
  const text = query.toString();
  return text ? `/?${text}` : "/";
}

/** The filters and order of `route` for the API. `now`: in milliseconds, for moving ranges. */
export function jobsQuery(route, now) {
  const query = new URLSearchParams();
  for (const state of route.state) query.append("state", state);
  for (const name of SINGLE) if (route[name]) query.set(name, route[name]);
  let { since } = route;
  if (route.range) since = now - RANGES[route.range] * 1000;
  if (since) query.set("since", new Date(since).toISOString());
  if (route.until) query.set("until", new Date(route.until).toISOString());
  if (route.sort !== "newest") query.set("sort", route.sort);
  return query;
}

/** How many filters are set. */
export function filters(route) {
  const set = [...SINGLE, "range", "since", "until"].filter((name) => route[name]).length;
  return set + (route.state.length ? 1 : 0);
}

export function onlyFailures(route) {
  return route.state.length === FAILURES.length && FAILURES.every((state) => route.state.includes(state));
}
