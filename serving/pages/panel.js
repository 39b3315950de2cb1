// One panel: its frame, its states, and the kinds that need no chart library: number, table, log.
//
// States, as `data-state`: `loading`, `ready`, `empty`, `error` (nothing to show), `stale` (what is shown is old).

import { cell, number, time, withUnit } from "./format.js";
import { drawing, levelColour, missing, roles } from "./charts.js";
import { palette } from "./palette.js";
import { element } from "./frame.js";

const MOST_ROWS = 500;
const SVG = "http://www.w3.org/2000/svg";

export class Panel {
  /** @param {any} config the panel as the config has it; @param {(from: number, to: number) => void} zoom */
  constructor(config, zoom) {
    this.config = config;
    this.zoom = zoom;
    this.answer = null;
    this.hidden = new Set();
    this.showsRows = false;
    this.make();
    this.state("loading");
  }

  make() {
    const { config } = this;
    this.body = element("div", { class: `body ${config.chart}` });
    this.legend = element("div", { class: "legend" });
    this.badge = element("span", { class: "badge", hidden: true });
    const button = (label, text, press) => element("button", { class: "quiet", type: "button", title: label, "aria-label": `${label}: ${config.title}`, onclick: press }, text);
    this.rowsButton = button("Show the rows", "☰", () => this.toggleRows());
    this.rowsButton.setAttribute("aria-pressed", "false");
    const isRows = config.chart === "table" || config.chart === "log";
    this.box = element(
      "section",
      { class: "panel", tabindex: "0", "aria-label": config.title },
      element(
        "header",
        {},
        element("h2", {}, config.title),
        config.description ? element("span", { class: "about", tabindex: "0", role: "note", title: config.description, "aria-label": config.description }, "i") : null,
        this.badge,
        element("span", { class: "tools" }, isRows ? null : this.rowsButton, button("Full screen", "⤢", () => this.fullScreen())),
      ),
      this.body,
      this.legend,
    );
    this.box.addEventListener("keydown", (event) => {
      if (event.target === this.box && event.key === "f") this.fullScreen();
    });
    this.box.dataset.chart = config.chart;
    // Tests and curious people find here what is drawn.
    this.box.tarn = this;
    this.sizes = new ResizeObserver(() => this.chart?.resize());
    this.sizes.observe(this.body);
  }

  remove() {
    this.sizes.disconnect();
    this.chart?.dispose();
    this.box.remove();
  }

  state(state, note) {
    this.box.dataset.state = state;
    this.box.setAttribute("aria-busy", String(state === "loading"));
    this.badge.hidden = state !== "stale";
    if (state === "stale") {
      this.badge.textContent = "stale";
      this.badge.title = note ?? "";
    }
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.box.requestFullscreen?.();
  }

  toggleRows() {
    this.showsRows = !this.showsRows;
    this.rowsButton.setAttribute("aria-pressed", String(this.showsRows));
    this.clear();
    this.draw();
  }

  clear() {
    this.chart?.dispose();
    this.chart = null;
    this.shown = null;
    this.body.replaceChildren();
    this.legend.replaceChildren();
    this.legendKey = "";
  }

  /** Takes an event of the stream: rows that changed, and the order of all. Drawn later, at progress. */
  take(event) {
    const known = event.whole || !this.answer ? new Map() : this.answer.known;
    for (const [id, row] of Object.entries(event.rows)) known.set(Number(id), row);
    const kept = new Map(event.order.map((id) => [id, known.get(id)]));
    this.answer = { columns: event.columns, known: kept, rows: [...kept.values()], vector: event.vector };
    this.trouble = null;
    this.changed = true;
  }

  complain(trouble) {
    this.trouble = trouble;
    this.changed = true;
  }

  /** Draws what has come since the last time. */
  draw() {
    this.changed = false;
    if (!this.answer) {
      if (this.trouble) this.say("error", this.trouble.message, this.trouble.hint);
      return;
    }
    const lacks = missing(this.config, this.answer.columns);
    if (lacks.length) {
      const names = this.answer.columns.map((column) => column.name).join(", ");
      this.say("error", `the answer has no column \`${lacks[0]}\``, `columns: ${names}`);
      return;
    }
    if (this.answer.rows.length === 0) {
      this.say("empty", "No rows", "Nothing has come yet, or nothing in this time range.");
      return;
    }
    if (this.said) {
      this.said = false;
      this.clear();
    }
    if (this.showsRows || this.config.chart === "table") this.table();
    else if (this.config.chart === "number") this.number();
    else if (this.config.chart === "log") this.log();
    else this.graph();
    if (this.trouble) this.state("stale", this.trouble.message);
    else this.state("ready");
  }

  say(state, message, hint) {
    this.clear();
    this.said = true;
    this.body.append(element("div", { class: "say" }, element("b", {}, message), hint ? element("span", {}, hint) : null));
    this.state(state);
  }

  graph() {
    const colours = palette();
    const { option, legend, timeAxis, left } = drawing(this.config, this.answer, colours, this.hidden, this.body.clientWidth);
    this.drawLegend(legend, left);
    if (!this.chart) {
      const place = element("div", { class: "canvas" });
      this.body.append(place);
      this.chart = window.echarts.init(place, null, { renderer: "canvas" });
      this.zoomable(place);
    }
    // A panel that was drawn before it had its place fills it now.
    const place = this.chart.getDom();
    if (this.chart.getWidth() !== place.clientWidth || this.chart.getHeight() !== place.clientHeight) this.chart.resize();
    this.timeAxis = timeAxis;
    this.chart.setOption(option, { replaceMerge: ["series"], lazyUpdate: true });
  }

  drawLegend(legend, left) {
    const wanted = this.config.legend === "show" || (this.config.legend !== "hide" && (legend.length > 1 || this.config.chart === "pie"));
    const items = wanted ? legend : [];
    const key = JSON.stringify([items.map((item) => [item.name, item.colour]), left]);
    if (key !== this.legendKey) {
      this.legendKey = key;
      this.legend.replaceChildren(
        ...items.map((item) => {
          const dot = element("i", { class: "dot" });
          dot.style.background = item.colour;
          const press = () => {
            if (!this.hidden.delete(item.name)) this.hidden.add(item.name);
            pressed.setAttribute("aria-pressed", String(!this.hidden.has(item.name)));
            this.draw();
          };
          const pressed = element("button", { type: "button", class: "quiet", "aria-pressed": String(!this.hidden.has(item.name)), onclick: press }, dot, element("span", {}, item.name), element("em", {}));
          return pressed;
        }),
        ...(left > 0 ? [element("span", { class: "dim" }, `${left} more series are not drawn`)] : []),
      );
    }
    items.forEach((item, at) => {
      const note = this.legend.children[at].lastElementChild;
      if (note.textContent !== (item.note ?? "")) note.textContent = item.note ?? "";
    });
  }

  /** A stretch of time that is drawn over with the pointer becomes the page's time range. */
  zoomable(place) {
    let from = null;
    const mark = element("div", { class: "stretch", hidden: true });
    place.append(mark);
    const x = (event) => event.clientX - place.getBoundingClientRect().left;
    place.addEventListener("pointerdown", (event) => {
      if (!this.timeAxis || !this.zoom || event.button !== 0 || event.pointerType === "touch") return;
      from = x(event);
    });
    place.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const to = x(event);
      mark.hidden = Math.abs(to - from) < 5;
      mark.style.left = `${Math.min(from, to)}px`;
      mark.style.width = `${Math.abs(to - from)}px`;
    });
    const end = (event) => {
      if (from === null) return;
      const ends = [from, x(event)].sort((a, b) => a - b);
      from = null;
      mark.hidden = true;
      if (event.type === "pointerup" && ends[1] - ends[0] >= 5 && this.chart) {
        const [start, stop] = ends.map((end) => this.chart.convertFromPixel({ xAxisIndex: 0 }, end));
        this.zoom(start, stop);
      }
    };
    place.addEventListener("pointerup", end);
    place.addEventListener("pointerleave", end);
  }

  number() {
    const { config, answer } = this;
    const column = (config.y?.length ? config.y[0] : null) ?? (answer.columns.find((one) => one.kind === "number" && one.name !== config.x) ?? answer.columns[0]).name;
    const values = answer.rows.map((row) => number(row[column]));
    const known = values.filter((value) => value !== null);
    const value = reduce(known, config.reduce, values);
    const before = config.compare ? number(answer.rows.at(-1)[config.compare]) : (config.reduce ?? "last") === "last" && known.length > 2 ? known[0] : null;
    if (!this.shown) {
      const figure = element("div", { class: "figure" });
      const change = element("div", { class: "change" });
      const spark = document.createElementNS(SVG, "svg");
      spark.setAttribute("class", "spark");
      spark.setAttribute("viewBox", "0 0 100 30");
      spark.setAttribute("preserveAspectRatio", "none");
      spark.setAttribute("aria-hidden", "true");
      const [area, line] = ["area", "line"].map((name) => {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", name);
        spark.append(path);
        return path;
      });
      this.body.append(figure, change, spark);
      this.shown = { figure, change, spark, area, line };
    }
    const { figure, change, spark, area, line } = this.shown;
    const text = value === null ? "–" : withUnit(value, config.unit, config.decimals, Math.abs(value) >= 1e7);
    if (figure.textContent !== text) figure.textContent = text;
    figure.dataset.value = value ?? "";
    figure.style.color = (value !== null && levelColour(config, value, palette())) || "";
    const ratio = before && value !== null ? (value - before) / Math.abs(before) : null;
    change.textContent = ratio === null ? "" : `${ratio > 0 ? "▲" : ratio < 0 ? "▼" : "="} ${withUnit(Math.abs(ratio), "ratio")}`;
    change.title = ratio === null ? "" : `before: ${withUnit(before, config.unit, config.decimals)}`;
    spark.toggleAttribute("hidden", known.length < 3);
    if (known.length >= 3) {
      // Where the number is a sum, the newest part is not whole yet and would always fall.
      const path = sparkline(config.reduce === "sum" && known.length > 3 ? known.slice(0, -1) : known);
      line.setAttribute("d", path);
      area.setAttribute("d", `${path}L100 30L0 30Z`);
    }
  }

  table() {
    const { answer, config } = this;
    const rows = answer.rows.slice(0, MOST_ROWS);
    const names = JSON.stringify(answer.columns);
    if (!this.shown || this.shown.names !== names) {
      this.clear();
      const head = element("tr", {}, ...answer.columns.map((column) => element("th", { scope: "col", class: column.kind === "number" ? "n" : undefined }, column.name)));
      const body = element("tbody", {});
      const foot = element("p", { class: "dim foot", hidden: true });
      this.body.append(element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${config.title}, rows` }, element("table", {}, element("thead", {}, head), body), foot));
      this.shown = { names, body, foot };
    }
    const { body, foot } = this.shown;
    const colours = config.thresholds?.length ? palette() : null;
    const digits = answer.columns.map((column) => config.decimals ?? mostDigits(rows, column.name));
    const leveled = colours ? roles(config, answer.columns).values.map((column) => column.name) : [];
    rows.forEach((row, at) => {
      const line = body.rows[at] ?? body.insertRow();
      answer.columns.forEach((column, place) => {
        const box = line.cells[place] ?? line.insertCell();
        const raw = row[column.name];
        const isNumber = column.kind === "number" && raw !== null;
        const withItsUnit = isNumber && this.showsRows === false && (config.y ?? []).includes(column.name);
        const text = withItsUnit ? withUnit(number(raw), config.unit, digits[place]) : isNumber ? grouped(raw, digits[place]) : cell(raw, column.kind);
        if (box.textContent !== text) box.textContent = text;
        box.className = raw === null ? "null" : column.kind === "number" ? "n" : column.kind === "time" ? "t" : "";
        if (leveled.includes(column.name)) box.style.color = levelColour(config, number(raw), colours) ?? "";
      });
    });
    while (body.rows.length > rows.length) body.deleteRow(-1);
    foot.hidden = answer.rows.length <= MOST_ROWS;
    foot.textContent = `${MOST_ROWS} of ${answer.rows.length} rows are shown`;
  }

  log() {
    const { answer, config } = this;
    const moment = answer.columns.find((column) => column.kind === "time");
    let rows = answer.rows;
    if (moment && rows.length > 1 && rows[0][moment.name] > rows.at(-1)[moment.name]) rows = [...rows].reverse();
    rows = rows.slice(-MOST_ROWS);
    if (!this.shown) {
      const list = element("ol", { class: "lines", tabindex: "0", "aria-label": `${config.title}, newest last` });
      this.body.append(list);
      this.shown = { list, atEnd: true };
      list.addEventListener("scroll", () => {
        this.shown.atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
      });
    }
    const { list, atEnd } = this.shown;
    rows.forEach((row, at) => {
      const line = list.children[at] ?? list.appendChild(element("li", {}, element("time", {}), element("span", {})));
      const stamp = moment ? time(row[moment.name]).slice(5, 19) : "";
      const text = answer.columns.filter((column) => column !== moment).map((column) => cell(row[column.name], column.kind)).join("  ");
      if (line.firstChild.textContent !== stamp) line.firstChild.textContent = stamp;
      if (line.lastChild.textContent !== text) line.lastChild.textContent = text;
    });
    while (list.children.length > rows.length) list.lastChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}

/** Digits behind the point that a column of numbers needs, two at most. */
function mostDigits(rows, name) {
  let most = 0;
  for (const row of rows) {
    const value = number(row[name]);
    if (value !== null && !Number.isInteger(value)) most = Math.max(most, Number.isInteger(Math.round(value * 1e6) / 1e5) ? 1 : 2);
  }
  return most;
}

function grouped(raw, decimals) {
  const value = number(raw);
  if (value === null) return String(raw);
  // What JavaScript's numbers cannot hold stays as it was written.
  if (typeof raw === "string" && !raw.includes(".") && !Number.isSafeInteger(value)) return raw;
  return withUnit(value, null, decimals);
}

function reduce(known, how, values) {
  if (!known.length) return null;
  const sum = () => known.reduce((total, value) => total + value, 0);
  switch (how) {
    case "sum":
      return sum();
    case "mean":
      return sum() / known.length;
    case "min":
      return Math.min(...known);
    case "max":
      return Math.max(...known);
    default:
      return values.at(-1);
  }
}

function sparkline(values) {
  const least = Math.min(...values);
  const range = Math.max(...values) - least || 1;
  const points = values.map((value, at) => `${((100 * at) / (values.length - 1)).toFixed(2)} ${(28 - (26 * (value - least)) / range).toFixed(2)}`);
  return `M${points.join("L")}`;
}
