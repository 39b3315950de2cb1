// A dashboard: head, choices, a grid of panels, and the stream that fills them.

import { element, onTheme } from "./frame.js";
import { ago } from "./format.js";
import { Choices } from "./choices.js";
import { arrange } from "./layout.js";
import { Panel } from "./panel.js";
import { PageStream } from "./stream.js";

const WORDS = {
  connecting: "connecting",
  live: "live",
  stale: "no news",
  lost: "connection lost, trying again",
};

const place = document.getElementById("dashboard");
const name = place.dataset.name;
const title = element("h1", {}, " ");
const about = element("p", { class: "dim" });
const light = element("span", { class: "light", role: "status", "aria-live": "polite" });
const controls = element("form", { class: "choices", "aria-label": "Choices", onsubmit: (event) => event.preventDefault() });
const grid = element("div", { class: "grid" });
place.append(element("div", { class: "head" }, element("div", {}, title, about), controls, light), grid);

let panels = [];
let definition = "";
let stream = null;
let shownAt = null;
let linkState = "connecting";

const choices = new Choices(controls, () => connect());

function connect() {
  stream?.close();
  grid.classList.add("waiting");
  const query = choices.query;
  stream = new PageStream(`/v1/dashboards/${encodeURIComponent(name)}/stream${query ? `?${query}` : ""}`, { apply, state });
}

/** Makes the page anew when the dashboard is another than before. */
function define(dashboard) {
  const text = JSON.stringify(dashboard);
  if (text === definition) return;
  definition = text;
  document.title = `${dashboard.title ?? dashboard.name} · Tarn`;
  title.textContent = dashboard.title ?? dashboard.name;
  about.textContent = dashboard.description ?? "";
  panels.forEach((panel) => panel.remove());
  choices.define(dashboard);
  const zoom = choices.usesTime() ? (from, to) => choices.between(from, to) : null;
  panels = dashboard.panel.map((panel) => new Panel(panel, zoom));
  arrange(panels);
  grid.replaceChildren(...panels.map((panel) => panel.box));
}

function apply(events, at) {
  for (const { name: kind, data } of events) {
    if (kind === "dashboard") define(data);
    else if (kind === "variable") choices.offer(data.index, data.options);
    else if (kind === "panel") panels[data.index]?.take(data);
    else if (kind === "trouble" && data.panel) panels[data.index]?.complain(data);
  }
  shownAt = at;
  grid.classList.remove("waiting");
  requestAnimationFrame(draw);
}

function draw() {
  for (const panel of panels) {
    if (!panel.changed) continue;
    try {
      panel.draw();
    } catch (error) {
      // One panel that cannot be drawn does not take the others with it.
      panel.say("error", "this cannot be drawn", String(error));
      throw error;
    }
  }
}

function state(now) {
  linkState = now;
  document.documentElement.dataset.link = now;
  tell();
}

function tell() {
  light.dataset.state = linkState;
  const old = shownAt && linkState !== "live" && linkState !== "connecting" ? ` · shown is from ${ago(shownAt)}` : "";
  const words = `${WORDS[linkState]}${old}`;
  if (light.textContent !== words) light.textContent = words;
}

setInterval(tell, 1000);
onTheme(() => {
  for (const panel of panels) {
    if (!panel.answer) continue;
    panel.clear();
    panel.draw();
  }
});
connect();
