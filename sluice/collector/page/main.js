// The page's frame: which view is shown, and what all views share.
//
// Promises: the URL is the state, so back, forward and a link from a friend show the same; a
// view that is left stops asking; a click with a modifier is the browser's.

import { ApiError, ask, Reader, trouble, watchTrouble } from "./api.js";
import { el, fill } from "./dom.js";
import { failuresView } from "./failures.js";
import { footerLine } from "./footer.js";
import { plural, setClock } from "./format.js";
import { listenToKeys } from "./keys.js";
import { Live } from "./live.js";
import { namesView } from "./names.js";
import { nowView } from "./now.js";
import { href, read } from "./route.js";
import { taskView } from "./task.js";
import { tasksView } from "./tasks.js";
import { themeButton } from "./theme.js";

const MAKE = { now: nowView, tasks: tasksView, task: taskView, failures: failuresView, names: namesView };
const TITLES = { now: "Now", tasks: "Tasks", task: "Task", failures: "Failures", names: "Task names" };
const CONNECTION = {
  connecting: ["Connecting", "Opening the stream of changes"],
  live: ["Live", "Changes are shown as they come"],
  polling: ["Polling", "The stream of changes is not there: asking every two seconds"],
  lost: ["No answer", "The collector does not answer; trying on"],
  refused: ["Not let in", "The collector wants its token"],
  asleep: ["Asleep", "Nothing is asked while the tab is hidden"],
};

const $ = (id) => document.getElementById(id);
const main = $("main");
let view = null;
let shown = { view: "", id: "" };
let tasksAt = "/?view=tasks";

const app = {
  latest: null,
  back: false,
  say(words) {
    $("say").textContent = words;
  },
  title(words) {
    document.title = `${words} · Sluice`;
  },
  /** Go to an address; `typing`: as a part of the same step. */
  go(address, typing = false) {
    if (address === location.pathname + location.search) return;
    history[typing ? "replaceState" : "pushState"](null, "", address);
    render();
  },
  /** The list of tasks as it was left. */
  tasksHref: () => tasksAt,
};

function render() {
  const route = read(location.search);
  if (route.view === "tasks") tasksAt = href(route);
  if (view && route.view === shown.view && route.id === shown.id) {
    view.update?.(route);
    return;
  }
  const first = view === null;
  view?.stop();
  shown = route;
  main.replaceChildren();
  document.body.dataset.view = route.view;
  app.title(TITLES[route.view]);
  for (const link of $("nav").children) {
    const here = link.dataset.view === route.view || (route.view === "task" && link.dataset.view === "tasks");
    if (here) link.setAttribute("aria-current", route.view === link.dataset.view ? "page" : "true");
    else link.removeAttribute("aria-current");
  }
  view = MAKE[route.view](main, route, app);
  if (app.latest) view.now?.(app.latest);
  if (!first) {
    scrollTo(0, 0);
    main.querySelector("h1")?.focus({ preventScroll: true });
  }
}

function follow(event) {
  const link = event.target.closest?.("a[href]");
  if (
    !link ||
    event.defaultPrevented ||
    event.button ||
    event.ctrlKey ||
    event.metaKey ||
    event.shiftKey ||
    event.altKey
  )
    return;
  if (
    link.target ||
    link.hasAttribute("download") ||
    link.origin !== location.origin ||
    link.pathname !== "/" ||
    link.hash
  )
    return;
  event.preventDefault();
  app.go(link.pathname + link.search);
}

const frame = new Reader(
  () => "/api/now",
  (now) => {
    app.latest = now;
    setClock(now.at);
    showFooter(now);
    view?.now?.(now);
  },
  () => (shown.view === "now" ? 500 : 2000),
);

function changed() {
  frame.wake();
  view?.changed();
}

async function clear() {
  try {
    const { cleared } = await ask("/api/clear", { method: "POST" });
    trouble(clear, null);
    app.say(`${plural(cleared, "task")} cleared`);
    changed();
  } catch (error) {
    trouble(clear, error);
    setTimeout(() => trouble(clear, null), 10_000);
  }
}

const showFooter = footerLine($("footer"), () => {
  $("clear").returnValue = "";
  $("clear").showModal();
});
$("clear").addEventListener("close", () => $("clear").returnValue === "clear" && clear());

watchTrouble((error) => {
  const notice = $("notice");
  notice.hidden = error === null;
  if (error === null) return fill(notice);
  if (error.status === 401)
    return fill(
      notice,
      "This collector wants its token: open the link again that ",
      el("code", null, "sluice dev"),
      " printed when it was started (it ends in ",
      el("code", null, "?token=…"),
      ").",
    );
  if (error.status === 0)
    return fill(
      notice,
      `The collector at ${location.host} does not answer. Is `,
      el("code", null, "sluice dev"),
      " running? This page tries on by itself.",
    );
  return fill(notice, `${error.message}. This page tries on by itself.`);
});

themeButton($("theme"));
document.addEventListener("click", follow);
addEventListener("popstate", () => {
  app.back = true;
  render();
  app.back = false;
});
const to = (name) => () => app.go(href({ view: name }));
listenToKeys({
  dialog: $("keys"),
  box: $("keys-on"),
  button: $("keys-open"),
  keys: (key) => (key === "/" ? search : view?.keys?.[key]),
  go: { n: to("now"), t: to("tasks"), f: to("failures"), a: to("names") },
});

function search() {
  if (!view.search) app.go(href({ view: "tasks" }));
  view.search.focus();
  view.search.select();
}

render();
new Live({
  changed,
  state(name) {
    const status = { lost: 0, refused: 401 }[name];
    trouble(app, status === undefined ? null : new ApiError(status, ""));
    const [word, title] = CONNECTION[name];
    $("connection").dataset.state = name;
    $("connection").title = title;
    $("connection").lastElementChild.textContent = word;
  },
});
