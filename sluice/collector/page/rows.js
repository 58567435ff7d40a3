// A table of which only the rows in sight are in the document.
//
// Promises: at most MOST rows in the document, whatever the length; every row has the same
// height, so that the scroll bar tells the truth; a row that stays keeps its element, and focus.

import { el, keyed } from "./dom.js";

const MOST = 300;
const OVERSCAN = 15;

export class Rows {
  #box;
  #options;
  #body;
  #above;
  #below;
  #table;
  #frame = 0;
  #index = -1;
  #id = null;

  /**
   * `box` scrolls, `table` is in it, with its head. `options`: height() of a row in pixels, total(),
   * more(), at(row), make(item), signature(item), seen(first, last).
   */
  constructor(box, table, options) {
    this.#box = box;
    this.#table = table;
    this.#options = options;
    const space = () => el("tr", { class: "space", "aria-hidden": "true" }, el("td", { colspan: 9 }));
    this.#above = space();
    this.#below = space();
    this.#body = el("tbody", { role: "rowgroup" }, this.#above, this.#below);
    table.append(this.#body);
    box.addEventListener("scroll", () => this.later(), { passive: true });
    box.addEventListener("focusin", (event) => this.#focused(event.target));
    this.resized = new ResizeObserver(() => this.later());
    this.resized.observe(box);
  }

  later() {
    this.#frame ||= requestAnimationFrame(() => this.render());
  }

  stop() {
    cancelAnimationFrame(this.#frame);
    this.resized.disconnect();
  }

  render() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { height, total, more, at, make, signature, seen } = this.#options;
    const all = total();
    const inSight = Math.ceil(this.#box.clientHeight / height());
    const top = Math.max(0, Math.min(all - 1, Math.floor(this.#box.scrollTop / height())));
    const first = Math.max(0, top - OVERSCAN);
    const last = Math.min(all, top + inSight + OVERSCAN, first + MOST);
    const items = [];
    for (let row = first; row < last; row += 1) items.push(at(row) ?? { id: `\0${row}`, missing: true });
    this.#above.firstChild.style.height = `${first * height()}px`;
    this.#below.firstChild.style.height = `${Math.max(0, all - last) * height()}px`;
    const made = keyed(this.#body, items, {
      key: (item) => item.id,
      signature,
      make,
      first: this.#above,
      last: this.#below,
    });
    made.forEach((node, place) => {
      node.setAttribute("aria-rowindex", first + place + 2);
      node.row = first + place;
    });
    this.#table.setAttribute("aria-rowcount", more() ? -1 : all + 1);
    seen(first, last - 1);
  }

  #focused(target) {
    const row = target.closest("tr");
    if (row?.row === undefined) return;
    this.#index = row.row;
    this.#id = row.keyedBy;
  }

  /** Move the focus by `step` rows, beginning at the first in sight. */
  move(step) {
    const { height, total, at } = this.#options;
    if (!total()) return;
    let index = this.#index;
    for (let off = 0; index >= 0 && off < MOST; off += 1) {
      // Rows may have come in above: look around where it was.
      const found = [index + off, index - off].find((row) => row >= 0 && at(row)?.id === this.#id);
      if (found !== undefined) {
        index = found;
        break;
      }
    }
    if (index < 0) index = Math.ceil(this.#box.scrollTop / height()) - step;
    index = Math.max(0, Math.min(total() - 1, index + step));
    const head = this.#table.tHead.offsetHeight;
    const top = index * height();
    const room = this.#box.clientHeight - head - height();
    if (top < this.#box.scrollTop) this.#box.scrollTop = top;
    else if (top > this.#box.scrollTop + room) this.#box.scrollTop = top - room;
    this.render();
    this.#index = index;
    this.#id = at(index)?.id;
    [...this.#body.rows]
      .find((row) => row.row === index)
      ?.querySelector("a")
      ?.focus({ preventScroll: true });
  }
}
