// What somebody chose on a dashboard: the variables and the time range. It stands in the page's address, so that a link
// shows the same.

import { element } from "./frame.js";

const PRESETS = [
  ["5m", "Last 5 minutes"],
  ["15m", "Last 15 minutes"],
  ["1h", "Last hour"],
  ["6h", "Last 6 hours"],
  ["24h", "Last 24 hours"],
  ["7d", "Last 7 days"],
  ["30d", "Last 30 days"],
  ["all", "Everything"],
];

export class Choices {
  /** @param {HTMLElement} place @param {() => void} changed called when something else is looked at */
  constructor(place, changed) {
    this.place = place;
    this.changed = changed;
    this.options = [];
    addEventListener("popstate", () => {
      this.draw();
      changed();
    });
  }

  get chosen() {
    return new URLSearchParams(location.search);
  }

  /** The part of the stream's address that says what is looked at. */
  get query() {
    const known = new Set(["range", "from", "to", ...(this.dashboard?.variables ?? this.dashboard?.variable ?? []).map((one) => one.name)]);
    const kept = new URLSearchParams();
    for (const [name, value] of this.chosen) if (!this.dashboard || known.has(name)) kept.set(name, value);
    if (kept.has("from") && kept.has("to")) {
      const span = Math.max(1, Math.round((Date.parse(kept.get("to")) - Date.parse(kept.get("from"))) / 1000));
      if (Number.isFinite(span)) kept.set("range", `${span}s`);
    }
    return kept.toString();
  }

  /** Takes the dashboard's definition. */
  define(dashboard) {
    this.dashboard = dashboard;
    this.options = dashboard.variable.map((variable) => variable.values);
    this.draw();
  }

  /** Takes what can be chosen for a variable. */
  offer(index, options) {
    if (JSON.stringify(this.options[index]) === JSON.stringify(options)) return;
    this.options[index] = options;
    this.draw();
  }

  go(change) {
    const chosen = this.chosen;
    change(chosen);
    const query = chosen.toString();
    history.pushState(null, "", query ? `?${query}` : location.pathname);
    this.draw();
    this.changed();
  }

  /** Looks at the time from one moment (ms) to another. */
  between(from, to) {
    const text = (ms) => new Date(Math.round(ms)).toISOString().replace(/\.\d+Z$/, "Z");
    this.go((chosen) => {
      chosen.delete("range");
      chosen.set("from", text(from));
      chosen.set("to", text(Math.max(to, from + 1000)));
    });
  }

  usesTime() {
    const queries = this.dashboard.panel.map((panel) => panel.query).join("\n");
    return this.dashboard.range || /\$(from|to|interval)\b/.test(queries);
  }

  draw() {
    if (!this.dashboard) return;
    const parts = this.dashboard.variable.map((variable, at) => this.variable(variable, this.options[at] ?? []));
    if (this.usesTime()) parts.push(this.time());
    this.place.replaceChildren(...parts);
  }

  variable(variable, options) {
    const first = variable.default ?? (variable.all ? "" : (options[0] ?? ""));
    const value = this.chosen.get(variable.name) ?? first;
    const shown = !options.includes(value) && value !== "" ? [value, ...options] : options;
    const choose = (event) => this.go((chosen) => (event.target.value === first ? chosen.delete(variable.name) : chosen.set(variable.name, event.target.value)));
    const select = element("select", { onchange: choose, name: variable.name }, variable.all ? element("option", { value: "" }, "All") : null, ...shown.map((option) => element("option", { value: option }, option)));
    select.value = value;
    return element("label", {}, element("span", {}, variable.label ?? variable.name), select);
  }

  time() {
    const { chosen } = this;
    const custom = chosen.has("from");
    const first = this.dashboard.range ?? "all";
    const range = custom ? "custom" : (chosen.get("range") ?? first);
    const presets = PRESETS.some(([value]) => value === range) || custom ? PRESETS : [[range, `Last ${range}`], ...PRESETS];
    const select = element(
      "select",
      {
        name: "range",
        onchange: (event) => {
          const value = event.target.value;
          if (value === "custom") return this.between(Date.now() - 3600e3, Date.now());
          this.go((into) => {
            into.delete("from");
            into.delete("to");
            if (value === first) into.delete("range");
            else into.set("range", value);
          });
        },
      },
      ...presets.map(([value, name]) => element("option", { value }, name)),
      element("option", { value: "custom" }, "From … to …"),
    );
    select.value = range;
    const parts = [element("span", {}, "Time"), select];
    const whole = element("label", {}, ...parts);
    if (!custom) return whole;
    const field = (name) => {
      const input = element("input", {
        type: "datetime-local",
        step: "1",
        name,
        "aria-label": `${name} (UTC)`,
        onchange: (event) => event.target.value && this.go((into) => into.set(name, `${event.target.value}Z`.replace(/(T\d\d:\d\d)Z$/, "$1:00Z"))),
      });
      input.value = (chosen.get(name) ?? new Date().toISOString()).slice(0, 19);
      return input;
    };
    return element("span", { class: "range" }, whole, field("from"), element("span", {}, "to"), field("to"), element("span", {}, "UTC"));
  }
}
