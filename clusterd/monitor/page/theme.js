// Runs before the first paint, so that a remembered choice does not flash. Not a module: those run too late.
(() => {
  let choice = "auto";
  try {
    choice = localStorage.getItem("clusterd-theme") || "auto";
  } catch {
    // Storage may be forbidden; then the system decides.
  }
  if (choice === "light" || choice === "dark") document.documentElement.dataset.theme = choice;
})();
