// The frame of all pages: which page this is, and the button for light and dark.

const THEMES = ["system", "light", "dark"];

function chosenTheme() {
  return document.documentElement.dataset.theme ?? "system";
}

function choose(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    if (theme === "system") localStorage.removeItem("tarn-theme");
    else localStorage.setItem("tarn-theme", theme);
  } catch {
    // It lasts as long as the page, then.
  }
  label();
  document.dispatchEvent(new CustomEvent("tarn-theme"));
}

function label() {
  const button = document.getElementById("theme");
  if (!button) return;
  const theme = chosenTheme();
  button.textContent = { system: "◐", light: "☀", dark: "☾" }[theme];
  button.setAttribute("aria-label", `Colours: ${theme}. Press to change`);
  button.title = `Colours: ${theme}`;
}

/** An element with attributes (`class`, `title`, …, handlers as `onclick`) and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Whether the page is dark now. */
export function isDark() {
  const theme = chosenTheme();
  return theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}

/** Calls `change` whenever light becomes dark or dark light. */
export function onTheme(change) {
  document.addEventListener("tarn-theme", change);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", change);
}

label();
document.getElementById("theme")?.addEventListener("click", () => {
  choose(THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length]);
});
for (const link of document.querySelectorAll("header.bar nav a")) {
  const here = location.pathname;
  const there = link.getAttribute("href");
  if (there === here || (there !== "/" && here.startsWith(there))) link.setAttribute("aria-current", "page");
}
