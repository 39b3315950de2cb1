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
    addEventListener("pointerdown", (event) => {
      const list = place.querySelector("details[open]");
      if (list && !list.contains(event.target)) list.open = false;
    });
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
    for (const [name, value] of this.chosen) if (!this.dashboard || known.has(name)) kept.append(name, value);
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
    const variable = this.dashboard.variable[index];
    const isNew = JSON.stringify(this.options[index]) !== JSON.stringify(options);
    this.options[index] = options;
    if (!variable.all && !variable.default && options.length && !this.chosen.has(variable.name)) {
      // Something must be chosen, and nothing says what: the first.
      const chosen = this.chosen;
      chosen.set(variable.name, options[0]);
      history.replaceState(null, "", `?${chosen}`);
      this.changed();
    } else if (!isNew) {
      return;
    }
    this.draw();
  }

  /** Chooses values for a variable; what was chosen for those that depend on it is not meant any more. */
  choose(variable, values) {
    this.go((chosen) => {
      chosen.delete(variable.name);
      for (const value of values) chosen.append(variable.name, value);
      const changed = new Set([variable.name]);
      for (const other of this.dashboard.variable) {
        const names = [...(other.query ?? "").matchAll(/\$([A-Za-z_]\w*)/g)].map((found) => found[1]);
        if (!names.some((name) => changed.has(name))) continue;
        changed.add(other.name);
        chosen.delete(other.name);
      }
    });
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
    const focused = document.activeElement?.dataset?.choice;
    this.opened = this.place.querySelector("details[open]")?.dataset.name;
    const parts = this.dashboard.variable.map((variable, at) => (variable.multiple ? this.several : this.one).call(this, variable, this.options[at] ?? []));
    if (this.usesTime()) parts.push(this.time());
    this.place.replaceChildren(...parts);
    // Who goes through the choices with the keyboard stays where they were.
    if (focused) this.place.querySelector(`[data-choice="${CSS.escape(focused)}"]`)?.focus();
  }

  /** A variable of one value. */
  one(variable, options) {
    const first = variable.default ?? (variable.all ? "" : variable.values[0]);
    const value = this.chosen.get(variable.name) ?? first ?? options[0] ?? "";
    const shown = !options.includes(value) && value !== "" ? [value, ...options] : options;
    const choose = (event) => this.choose(variable, event.target.value === first ? [] : [event.target.value]);
    const select = element("select", { onchange: choose, name: variable.name, "data-choice": variable.name }, variable.all ? element("option", { value: "" }, "All") : null, ...shown.map((option) => element("option", { value: option }, option)));
    select.value = value;
    return element("label", {}, element("span", {}, variable.label ?? variable.name), select);
  }

  /** A variable of several values: a list that opens, with a box for each. */
  several(variable, options) {
    const given = this.chosen.getAll(variable.name);
    const first = variable.default ?? (variable.all ? null : (variable.values[0] ?? options[0] ?? null));
    const values = given.length ? given.filter((value) => value !== "") : first === null ? [] : [first];
    const shown = [...values.filter((value) => !options.includes(value)), ...options];
    const label = variable.label ?? variable.name;
    const box = (value, text, checked, press) => {
      const input = element("input", { type: "checkbox", "data-choice": `${variable.name}=${value}`, onchange: press });
      input.checked = checked;
      return element("label", {}, input, element("span", {}, text));
    };
    const all = variable.all ? [box("", "All", values.length === 0, () => this.choose(variable, variable.default ? [""] : []))] : [];
    const boxes = shown.map((option) =>
      box(option, option, values.includes(option), (event) => {
        const kept = shown.filter((one) => (one === option ? event.target.checked : values.includes(one)));
        // The last one is not taken away where there must be one.
        if (kept.length || variable.all) this.choose(variable, kept.length || !variable.default ? kept : [""]);
        else this.draw();
      }),
    );
    const said = values.length === 0 ? "All" : values.length > 2 ? `${values.length} of ${shown.length}` : values.join(", ");
    const summary = element("summary", { "aria-label": `${label}: ${said}`, "data-choice": variable.name }, said);
    const list = element("details", { class: "several", "data-name": variable.name }, summary, element("div", { class: "boxes", role: "group", "aria-label": label }, ...all, ...boxes));
    list.open = this.opened === variable.name;
    list.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !list.open) return;
      list.open = false;
      summary.focus();
    });
    return element("span", { class: "choice" }, element("span", {}, label), list);
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
        "data-choice": "range",
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
        "data-choice": name,
        "aria-label": `${name} (UTC)`,
        onchange: (event) => event.target.value && this.go((into) => into.set(name, `${event.target.value}Z`.replace(/(T\d\d:\d\d)Z$/, "$1:00Z"))),
      });
      input.value = (chosen.get(name) ?? new Date().toISOString()).slice(0, 19);
      return input;
    };
    return element("span", { class: "range" }, whole, field("from"), element("span", {}, "to"), field("to"), element("span", {}, "UTC"));
  }
}
