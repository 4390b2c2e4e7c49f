/** The switch of colours: as the system says, light or dark; remembered. theme.js applies what was chosen earlier. */

const KEY = "clusterd-theme";
const buttons = [...document.querySelectorAll("[data-theme-choice]")];

/** `changed`: is called when the colours are others, by whomever. */
export function followTheme(changed) {
  choose(document.documentElement.dataset.theme ?? "auto");
  for (const button of buttons) {
    button.addEventListener("click", () => {
      remember(button.dataset.themeChoice);
      choose(button.dataset.themeChoice);
      changed();
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

function choose(choice) {
  if (choice === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
  for (const button of buttons) button.ariaPressed = String(button.dataset.themeChoice === choice);
}

function remember(choice) {
  try {
    if (choice === "auto") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, choice);
  } catch {
    // Storage may be forbidden; then the choice lasts as long as the page.
  }
}
