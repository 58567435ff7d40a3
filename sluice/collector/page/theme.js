// Light or dark: what the system says, or what the reader chose last.
//
// Promises: the choice is set before the first paint where the browser can wait for it, and
// a browser that keeps nothing (storage refused) loses the choice, not the page.

const CHOICES = ["auto", "light", "dark"];

/** What is kept under `key` in this browser, or `otherwise`. */
export function kept(key, otherwise) {
  try {
    return localStorage.getItem(`sluice.${key}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keep `value` under `key`, if this browser lets us. */
export function keep(key, value) {
  try {
    localStorage.setItem(`sluice.${key}`, value);
  } catch {
    // Private windows may refuse: the choice lasts as long as the page.
  }
}

let choice = CHOICES.includes(kept("theme", "auto")) ? kept("theme", "auto") : "auto";

function apply() {
  if (choice === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}

/** Make `button` go through auto, light and dark, and say which it is. */
export function themeButton(button) {
  const show = () => {
    button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[choice];
    button.setAttribute("aria-label", `Theme: ${choice}`);
    button.title = "Theme: auto, light, dark";
  };
  button.addEventListener("click", () => {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    keep("theme", choice);
    apply();
    show();
  });
  show();
}

apply();
