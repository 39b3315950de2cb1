// A chart of whatever was asked, with a few choices above it.

import { drawing, roles } from "./charts.js";
import { element, onTheme } from "./frame.js";
import { palette } from "./palette.js";
import { plain } from "./format.js";

const KINDS = ["line", "area", "bar", "stacked_bar", "heatmap", "pie"];
const MOST_ROWS = 20_000;

export class QuickChart {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.controls = element("div", { class: "choices" });
    this.canvas = element("div", { class: "quick" });
    this.note = element("p", { class: "dim" });
    place.append(this.controls, this.canvas, this.note);
    new ResizeObserver(() => this.chart?.resize()).observe(this.canvas);
    onTheme(() => this.draw());
  }

  show(columns, rows) {
    if (this.rows !== rows || this.count !== rows.count) {
      const same = JSON.stringify(columns) === JSON.stringify(this.columns);
      this.columns = columns;
      this.rows = rows;
      this.count = rows.count;
      this.answer = { columns, rows: rows.head(MOST_ROWS) };
      if (!same) this.panel = { title: "The answer", chart: guess(columns), thresholds: [], y: [] };
      this.choose();
    }
    this.draw();
  }

  choose() {
    const { x, series, values } = roles(this.panel, this.columns);
    const pick = (label, name, value, options) => {
      const select = element(
        "select",
        {
          onchange: (event) => {
            const chosen = event.target.value;
            this.panel[name] = name === "y" ? (chosen ? [chosen] : []) : chosen || undefined;
            this.choose();
            this.draw();
          },
        },
        ...options.map(([option, text]) => element("option", { value: option }, text)),
      );
      select.value = value;
      return element("label", {}, element("span", {}, label), select);
    };
    const names = this.columns.map((column) => [column.name, column.name]);
    const numbers = this.columns.filter((column) => column.kind === "number").map((column) => [column.name, column.name]);
    this.controls.replaceChildren(
      pick("Chart", "chart", this.panel.chart, KINDS.map((kind) => [kind, kind.replace("_", " ")])),
      pick("Along", "x", x?.name ?? "", names),
      pick("Series", "series", series?.name ?? "", [["", "–"], ...names]),
      pick("Values", "y", this.panel.y.length ? values[0]?.name : "", [["", "all numbers"], ...numbers]),
    );
  }

  draw() {
    if (!this.answer || !this.canvas.isConnected) return;
    const can = this.answer.rows.length > 0 && roles(this.panel, this.columns).values.length > 0;
    this.note.textContent = !can
      ? "There is no column of numbers to draw."
      : this.count > MOST_ROWS
        ? `The first ${plain(MOST_ROWS)} of ${plain(this.count)} rows are drawn.`
        : "";
    this.chart?.dispose();
    this.chart = null;
    if (!can) return;
    this.chart = window.echarts.init(this.canvas, null, { renderer: "canvas" });
    this.chart.setOption(drawing(this.panel, this.answer, palette(), new Set(), this.canvas.clientWidth).option);
  }
}

function guess(columns) {
  const first = columns[0]?.kind;
  if (first === "time" || first === "date" || first === "number") return "line";
  return "bar";
}
