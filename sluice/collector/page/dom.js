// Elements made from data.
//
// Promises: what is given as a child becomes a text node unless it is a node already, and no
// text is ever parsed as HTML. Attributes that could run or load something (on*, style,
// srcdoc, src) are refused, and a link leads nowhere but to this page and its API.

const SVG = "http://www.w3.org/2000/svg";
const REFUSED = /^(on|style$|src)/i;
const OWN = /^(\/(?!\/|\\)|#)/;

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    } else if (REFUSED.test(name) || (name === "href" && !OWN.test(value))) {
      throw new Error(`refused attribute ${name}`);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...nodes(children));
  return node;
}

function nodes(children) {
  return children
    .flat(9)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

/** An HTML element. `attributes.on` holds listeners; null and false attributes are left out. */
export function el(tag, attributes, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** An SVG element, likewise. */
export function svg(tag, attributes, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

/** Put `children` in the place of everything in `parent`. */
export function fill(parent, ...children) {
  parent.replaceChildren(...nodes(children));
}

const FOCUSABLE = "a, button, summary";

/**
 * Make the children of `parent` (from `first` up to `last`, both excluded, where given) those
 * of `items`. An element stays as it is while `signature(item)` stays the same, so that focus,
 * selection and an open fold survive a refresh; where one is replaced, focus moves to its heir.
 */
export function keyed(parent, items, { key, signature, make, first = null, last = null }) {
  const old = new Map();
  for (let at = first ? first.nextSibling : parent.firstChild; at && at !== last;) {
    const next = at.nextSibling;
    if (at.keyedBy === undefined || old.has(at.keyedBy)) at.remove();
    else old.set(at.keyedBy, at);
    at = next;
  }
  const made = [];
  let refocus = null;
  for (const item of items) {
    const name = key(item);
    const sign = signature(item);
    let node = old.get(name);
    if (node && node.signature !== sign) {
      const place = [...node.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
      const heir = make(item);
      if (place >= 0) refocus = () => heir.querySelectorAll(FOCUSABLE)[place]?.focus({ preventScroll: true });
      node.replaceWith(heir);
      node = heir;
    } else if (!node) {
      node = make(item);
    }
    old.delete(name);
    node.keyedBy = name;
    node.signature = sign;
    made.push(node);
  }
  for (const node of old.values()) node.remove();
  let at = first ? first.nextSibling : parent.firstChild;
  for (const node of made) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  refocus?.();
  return made;
}
