// Single keys.
//
// Promises: no key does anything while someone types, while a dialog is open, together with
// Ctrl, Alt or Meta, or where the reader has switched them off.

import { keep, kept } from "./theme.js";

const TYPED_IN = "input:not([type=checkbox]), select, textarea, [contenteditable]";
const GO_WITHIN = 1000;

/** `keys(name)` gives what a key does now, or nothing; `go` has what follows a `g`. */
export function listenToKeys({ dialog, box, button, keys, go }) {
  let began = -Infinity;
  box.checked = kept("keys", "on") === "on";
  box.addEventListener("change", () => keep("keys", box.checked ? "on" : "off"));
  button.addEventListener("click", () => dialog.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "Escape" && event.target.matches?.("#search")) event.target.blur();
    if (!box.checked || event.target.matches?.(TYPED_IN) || document.querySelector("dialog[open]")) return;
    const after = event.timeStamp - began < GO_WITHIN;
    began = event.key === "g" ? event.timeStamp : -Infinity;
    if (event.key === "g") return;
    const act = event.key === "?" ? () => dialog.showModal() : (after && go[event.key]) || keys(event.key);
    if (!act) return;
    event.preventDefault();
    act();
  });
}
