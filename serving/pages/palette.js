// Colours, read from the style sheet, so that charts and page have the same.

const NAMES = ["text", "dim", "line", "panel", "accent", "good", "warn", "bad"];

/** The colours as the page has them now. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const colours = Object.fromEntries(NAMES.map((name) => [name, read(name)]));
  colours.series = Array.from({ length: 10 }, (_, at) => read(`series-${at + 1}`));
  colours.heat = [read("heat-low"), read("heat-middle"), read("heat-high")];
  colours.font = getComputedStyle(document.body).fontFamily;
  return colours;
}

/** `colour` (as #rrggbb) with this much of it to be seen. */
export function faded(colour, alpha) {
  const byte = Math.round(alpha * 255).toString(16).padStart(2, "0");
  return /^#[0-9a-f]{6}$/i.test(colour) ? colour + byte : colour;
}
