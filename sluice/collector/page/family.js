// Who started whom: parents, children and chains as a small tree.
//
// Promises: a chain of any length stays one column (each only child stands below its parent
// behind an arrow), and ids that name each other as parents cannot make it go round.

import { el } from "./dom.js";
import { chip, raw, taskLink } from "./parts.js";

const MOST = 200;

/** The tree of `family`, with the task `id` marked. */
export function familyTree(family, id) {
  if (family.length < 2) return el("p", { class: "note" }, "No parent and no child of it is known.");
  const known = new Set(family.map((one) => one.id));
  const children = new Map();
  for (const one of family) {
    const parent = known.has(one.parentId) && one.parentId !== one.id ? one.parentId : null;
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(one);
  }
  const seen = new Set();

  const line = (one, then) =>
    el(
      "li",
      { class: then ? "then" : null, "aria-current": one.id === id ? "true" : null },
      then && el("span", { class: "arrow", "aria-hidden": "true" }, "↳ "),
      chip(one.state),
      " ",
      one.id === id ? raw(one.name) : taskLink(one.id, one.name),
    );

  function list(some) {
    const rows = [];
    for (const one of some) {
      let at = one;
      let row = null;
      while (at && !seen.has(at.id)) {
        seen.add(at.id);
        row = line(at, row !== null);
        rows.push(row);
        const below = children.get(at.id) ?? [];
        if (below.length > 1) row.append(list(below));
        at = below.length === 1 ? below[0] : null;
      }
    }
    return el("ul", { class: "tree" }, rows);
  }

  const roots = [...(children.get(null) ?? [])];
  const tree = list(roots);
  // What is left names itself as its own ancestor: shown all the same.
  for (const one of family) if (!seen.has(one.id)) tree.append(...list([one]).childNodes);
  return el(
    "div",
    null,
    tree,
    family.length >= MOST && el("p", { class: "note" }, `At most ${MOST} are shown.`),
  );
}
