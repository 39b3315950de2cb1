// A table that shows only what is in sight, so that a million rows scroll as ten do.

import { element } from "./frame.js";
import { cell } from "./format.js";

const ROW_PX = 26;
/** Browsers draw no element that is much higher; beyond it a pixel of the scroll bar is more than a row. */
const MOST_PX = 8_000_000;
const SAMPLE = 80;

export class Grid {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.head = element("div", { class: "row head", role: "row" });
    this.body = element("div", { class: "rows", role: "presentation" });
    this.sheet = element("div", { class: "sheet-of-rows", role: "presentation" }, this.head, this.body);
    this.view = element("div", { class: "view", tabindex: "0", role: "grid", "aria-label": "Rows" }, this.sheet);
    place.append(this.view);
    this.view.addEventListener("scroll", () => this.later());
    new ResizeObserver(() => this.later()).observe(this.view);
  }

  /** Shows `rows` (see rows.js) under `columns`. */
  show(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this.widths = null;
    this.view.scrollTop = 0;
    this.view.setAttribute("aria-colcount", String(columns.length));
    this.head.replaceChildren(
      element("div", { class: "number", role: "columnheader" }, "#"),
      ...columns.map((column) => element("div", { role: "columnheader", class: column.kind === "number" ? "n" : undefined, title: column.type }, column.name)),
    );
    this.body.replaceChildren();
    this.grow();
  }

  /** There are more rows than before. */
  grow() {
    if (!this.rows) return;
    if (!this.widths || (this.sampled < SAMPLE && this.rows.count > this.sampled)) this.measure();
    const height = Math.min(MOST_PX, this.rows.count * ROW_PX);
    this.sheet.style.height = `${height + ROW_PX}px`;
    this.view.setAttribute("aria-rowcount", String(this.rows.count));
    this.later();
  }

  measure() {
    this.sampled = Math.min(SAMPLE, this.rows.count);
    const sample = this.rows.head(SAMPLE);
    const widths = this.columns.map((column) => {
      const longest = Math.max(column.name.length, ...sample.map((row) => cell(row[column.name], column.kind).length));
      return `${Math.min(Math.max(longest, 4), 60) + 2}ch`;
    });
    this.widths = `${Math.max(4, String(this.rows.count).length + 2)}ch ${widths.join(" ")}`;
    this.sheet.style.setProperty("--columns", this.widths);
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.draw();
    });
  }

  draw() {
    if (!this.rows) return;
    const shown = Math.ceil(this.view.clientHeight / ROW_PX) + 2;
    const height = Math.min(MOST_PX, this.rows.count * ROW_PX);
    const room = Math.max(1, height - this.view.clientHeight + ROW_PX);
    const last = Math.max(0, this.rows.count - shown + 2);
    const scaled = this.rows.count * ROW_PX > MOST_PX;
    const first = scaled ? Math.floor(Math.min(1, this.view.scrollTop / room) * last) : Math.floor(this.view.scrollTop / ROW_PX);
    const count = Math.max(0, Math.min(shown, this.rows.count - first));
    this.body.style.transform = `translateY(${scaled ? this.view.scrollTop : first * ROW_PX}px)`;
    while (this.body.children.length > count) this.body.lastChild.remove();
    for (let at = 0; at < count; at += 1) this.line(at, first + at);
  }

  line(place, at) {
    const line = this.body.children[place] ?? this.body.appendChild(element("div", { class: "row", role: "row" }));
    if (line.at === at && line.rows === this.rows) return;
    line.at = at;
    line.rows = this.rows;
    line.setAttribute("aria-rowindex", String(at + 1));
    const row = this.rows.get(at);
    while (line.children.length <= this.columns.length) line.append(element("div", { role: "gridcell" }));
    line.children[0].textContent = String(at + 1);
    line.children[0].className = "number";
    this.columns.forEach((column, column_at) => {
      const box = line.children[column_at + 1];
      const value = row[column.name];
      const text = cell(value, column.kind);
      box.textContent = text;
      box.title = text.length > 58 ? text : "";
      box.className = value === null || value === undefined ? "null" : column.kind === "number" ? "n" : "";
    });
  }
}
