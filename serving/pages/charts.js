// From an answer to what the chart library draws: which column is what, then one function a kind of chart.

import { moment, number, timeLabel, time, withUnit } from "./format.js";
import { faded } from "./palette.js";
import { element } from "./frame.js";

const OTHER = "(none)";
/** Series that are drawn at most; the others are named in the panel's foot. */
export const MOST_SERIES = 40;

/** Which column is x, which names the series, which are values. */
export function roles(panel, columns) {
  const named = (name) => columns.find((column) => column.name === name);
  const x = (panel.x && named(panel.x)) || columns[0];
  const free = columns.filter((column) => column !== x);
  const series = panel.series ? named(panel.series) : free.find((column) => column.kind === "text");
  let values = panel.y?.length ? panel.y.map(named).filter(Boolean) : free.filter((column) => column.kind === "number" && column !== series);
  if (!values.length && x?.kind === "number") values = [x];
  const one = panel.chart === "pie" || panel.chart === "heatmap" || (series && !panel.y?.length);
  return { x, series: panel.chart === "pie" ? undefined : series, values: one ? values.slice(0, 1) : values };
}

/** What a panel names that its answer lacks. */
export function missing(panel, columns) {
  const names = [panel.x, panel.series, panel.compare, ...(panel.y ?? [])].filter(Boolean);
  return names.filter((name) => !columns.some((column) => column.name === name));
}

/**
 * The answer as named series over one x axis: `{x: {kind, values}, series: [{name, values}]}`. Where a series has no row its
 * value is undefined, and a line goes on to the next; where it is NULL, the line has a gap.
 */
export function pivot(panel, answer) {
  const { x, series, values } = roles(panel, answer.columns);
  const kind = x.kind === "time" || x.kind === "date" ? "time" : x.kind === "number" && panel.chart !== "bar" && panel.chart !== "stacked_bar" && panel.chart !== "heatmap" ? "number" : "name";
  const toX = (row) => (kind === "time" ? moment(row[x.name]) : kind === "number" ? number(row[x.name]) : String(row[x.name] ?? OTHER));
  const places = new Map();
  for (const row of answer.rows) {
    const at = toX(row);
    if (!places.has(at)) places.set(at, places.size);
  }
  const xs = [...places.keys()];
  // Names stay as the query orders them; moments and numbers go up.
  if (kind !== "name") xs.sort((a, b) => a - b).forEach((value, at) => places.set(value, at));
  const found = new Map();
  for (const row of answer.rows) {
    for (const value of values) {
      const of = series ? String(row[series.name] ?? OTHER) : "";
      const name = !series ? value.name : values.length > 1 ? `${of} ${value.name}` : of;
      if (!found.has(name)) found.set(name, new Array(xs.length).fill(undefined));
      found.get(name)[places.get(toX(row))] = number(row[value.name]);
    }
  }
  const names = [...found.keys()];
  if (series) names.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  return { x: { kind, values: xs }, series: names.map((name) => ({ name, values: found.get(name) })) };
}

/** The colour of the highest threshold that `value` reaches. */
export function levelColour(panel, value, colours) {
  let colour;
  for (const threshold of panel.thresholds ?? []) if (value >= threshold.at) colour = colours[threshold.level];
  return colour;
}

function base(panel, colours) {
  return {
    animation: false,
    textStyle: { fontFamily: colours.font, color: colours.text },
    aria: { enabled: true, label: { description: `${panel.title}, ${panel.chart.replace("_", " ")} chart` } },
  };
}

/** Tooltips are made of elements: under the page's policy no style may stand in HTML. */
function tip(title, lines) {
  return element(
    "div",
    { class: "tip" },
    element("b", {}, title),
    ...lines.map(({ colour, name, value }) => {
      const dot = element("i", { class: "dot" });
      if (colour) dot.style.background = colour;
      return element("div", {}, colour ? dot : null, element("span", {}, name), element("em", {}, value));
    }),
  );
}

const tooltip = (colours, more) => ({
  confine: true,
  transitionDuration: 0,
  backgroundColor: colours.panel,
  borderColor: colours.line,
  textStyle: { color: colours.text, fontFamily: colours.font, fontSize: 12 },
  padding: 0,
  ...more,
});

function xAxis(x, colours, span) {
  const shared = {
    axisLine: { lineStyle: { color: colours.line } },
    axisTick: { show: false },
    axisLabel: { color: colours.dim, hideOverlap: true, fontSize: 11 },
    splitLine: { show: false },
  };
  if (x.kind === "time") {
    return { ...shared, type: "time", boundaryGap: false, axisLabel: { ...shared.axisLabel, alignMinLabel: "left", alignMaxLabel: "right", formatter: (ms) => timeLabel(ms, span) }, axisPointer: { lineStyle: { color: colours.dim } } };
  }
  if (x.kind === "number") return { ...shared, type: "value", scale: true };
  return { ...shared, type: "category", data: x.values };
}

function valueAxis(panel, colours, fromZero) {
  return {
    type: "value",
    min: panel.min ?? undefined,
    max: panel.max ?? undefined,
    scale: !fromZero,
    splitNumber: 4,
    axisLabel: { color: colours.dim, fontSize: 11, formatter: (value) => withoutZeros(withUnit(value, panel.unit, undefined, true)) },
    splitLine: { lineStyle: { color: colours.line } },
    axisPointer: { label: { show: false } },
  };
}

/** `1.50 min` as `1.5 min`: the labels of an axis have as few digits as they need. */
const withoutZeros = (text) => text.replace(/(\.\d*?)0+(?!\d)/, "$1").replace(/\.(?!\d)/, "");

function thresholdLines(panel, colours) {
  if (!panel.thresholds?.length) return undefined;
  return {
    silent: true,
    symbol: "none",
    label: { show: false },
    data: panel.thresholds.map((threshold) => ({ yAxis: threshold.at, lineStyle: { color: colours[threshold.level], type: "dashed", width: 1 } })),
  };
}

function points(values, x, stacked) {
  if (x.kind === "name") return values.map((value) => value ?? (stacked ? 0 : null));
  const found = values.map((value, at) => [x.values[at], value]);
  // What is stacked must have a value everywhere; a line only where it has a row.
  return stacked ? found.map(([at, value]) => [at, value ?? 0]) : found.filter(([, value]) => value !== undefined);
}

/** Lines, areas and bars over one axis. */
function overAxis(panel, answer, colours, hidden, width) {
  const shape = pivot(panel, answer);
  const stacked = panel.chart === "area" || panel.chart === "stacked_bar";
  const bars = panel.chart === "bar" || panel.chart === "stacked_bar";
  const { x } = shape;
  const span = x.kind === "time" ? x.values.at(-1) - x.values[0] : 0;
  const longest = x.kind === "name" ? Math.max(0, ...x.values.map((name) => name.length)) : 0;
  // Names that would touch each other lie beside their bars; a letter is about 6 px wide.
  const lying = bars && x.kind === "name" && 6 * longest + 6 > width / Math.max(1, x.values.length);
  const drawn = shape.series.slice(0, MOST_SERIES);
  const series = drawn
    .map((one, at) => ({ ...one, colour: colours.series[at % colours.series.length] }))
    .filter((one) => !hidden.has(one.name))
    .map((one, at) => ({
      name: one.name,
      type: bars ? "bar" : "line",
      stack: stacked ? "all" : undefined,
      color: one.colour,
      data: points(one.values, x, stacked),
      showSymbol: x.values.length < 2,
      symbolSize: 5,
      connectNulls: false,
      sampling: bars ? undefined : "lttb",
      lineStyle: { width: stacked ? 1.25 : 1.75 },
      areaStyle: panel.chart === "area" ? { color: faded(one.colour, 0.35) } : undefined,
      barMaxWidth: lying ? 18 : 36,
      barCategoryGap: x.kind === "time" ? "12%" : "28%",
      itemStyle: bars && !stacked ? { borderRadius: lying ? [0, 3, 3, 0] : [3, 3, 0, 0] } : undefined,
      emphasis: { disabled: true },
      markLine: at === 0 ? thresholdLines(panel, colours) : undefined,
    }));
  const along = xAxis(x, colours, span);
  const up = valueAxis(panel, colours, bars || stacked);
  if (lying) {
    Object.assign(along, { inverse: true, axisLabel: { ...along.axisLabel, width: 128, overflow: "truncate", hideOverlap: false, interval: 0 } });
    if (x.values.length > 30) along.axisLabel.interval = "auto";
    along.axisLine = { show: false };
  }
  const option = {
    ...base(panel, colours),
    grid: { left: 4, right: 12, top: 10, bottom: 2, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    xAxis: lying ? { ...up, splitNumber: 3 } : along,
    yAxis: lying ? along : up,
    series,
    tooltip: tooltip(colours, {
      trigger: "axis",
      axisPointer: { type: bars ? "shadow" : "line", lineStyle: { color: colours.dim }, shadowStyle: { color: faded(colours.text, 0.06) } },
      formatter: (points) => {
        const list = Array.isArray(points) ? points : [points];
        const title = x.kind === "time" ? `${time(list[0].value[0])} UTC` : String(list[0].axisValueLabel ?? list[0].name);
        const lines = list.map((point) => ({ colour: point.color, name: point.seriesName, raw: Array.isArray(point.value) ? point.value[1] : point.value }));
        const order = stacked || list.length > 6 ? lines.filter((line) => line.raw !== null).sort((a, b) => b.raw - a.raw).slice(0, 14) : lines;
        return tip(title, order.map((line) => ({ ...line, value: withUnit(line.raw, panel.unit, panel.decimals) })));
      },
    }),
  };
  const legend = drawn.map((one, at) => ({ name: one.name, colour: colours.series[at % colours.series.length], last: lastOf(one.values) }));
  return { option, legend, timeAxis: x.kind === "time" && !lying, left: shape.series.length - drawn.length };
}

function lastOf(values) {
  for (let at = values.length - 1; at >= 0; at -= 1) if (values[at] !== null && values[at] !== undefined) return values[at];
  return null;
}

function pie(panel, answer, colours, hidden) {
  const { x, values } = roles(panel, answer.columns);
  const all = answer.rows.map((row, at) => ({ name: String(row[x.name] ?? OTHER), value: number(row[values[0]?.name]) ?? 0, colour: colours.series[at % colours.series.length] }));
  const parts = all.slice(0, MOST_SERIES);
  const shown = parts.filter((part) => !hidden.has(part.name));
  const total = shown.reduce((sum, part) => sum + part.value, 0);
  const share = (value) => (total > 0 ? `${((100 * value) / total).toFixed(1)}%` : "–");
  const option = {
    ...base(panel, colours),
    title: {
      text: withUnit(total, panel.unit, panel.decimals, true),
      left: "center",
      top: "center",
      textStyle: { color: colours.text, fontSize: 19, fontWeight: 600, fontFamily: colours.font },
    },
    tooltip: tooltip(colours, { trigger: "item", formatter: (point) => tip(point.name, [{ colour: point.color, name: share(point.value), value: withUnit(point.value, panel.unit, panel.decimals) }]) }),
    series: [
      {
        type: "pie",
        radius: ["62%", "92%"],
        label: { show: false },
        itemStyle: { borderColor: colours.panel, borderWidth: 2, borderRadius: 3 },
        emphasis: { scale: false },
        data: shown.map((part) => ({ name: part.name, value: part.value, itemStyle: { color: part.colour } })),
      },
    ],
  };
  return { option, legend: parts.map((part) => ({ name: part.name, colour: part.colour, note: share(part.value) })), timeAxis: false, left: all.length - parts.length };
}

function heatmap(panel, answer, colours) {
  const shape = pivot({ ...panel, chart: "heatmap" }, answer);
  const { x } = shape;
  const span = x.kind === "time" ? x.values.at(-1) - x.values[0] : 0;
  const labels = x.values.map((value) => (x.kind === "time" ? timeLabel(value, span) : String(value)));
  const rows = shape.series.slice(0, MOST_SERIES);
  const cells = rows.flatMap((one, y) => one.values.map((value, at) => [at, y, value]).filter((cell) => cell[2] !== null && cell[2] !== undefined));
  const sizes = cells.map((cell) => cell[2]);
  const named = (data, more) => ({
    type: "category",
    data,
    axisLine: { show: false },
    axisTick: { show: false },
    axisLabel: { color: colours.dim, fontSize: 11, ...more },
    splitArea: { show: false },
    splitLine: { show: false },
  });
  const option = {
    ...base(panel, colours),
    grid: { left: 4, right: 8, top: 8, bottom: 2, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    xAxis: named(labels, { hideOverlap: true }),
    yAxis: named(rows.map((one) => one.name), { width: 110, overflow: "truncate", interval: rows.length > 20 ? "auto" : 0 }),
    visualMap: { show: false, min: panel.min ?? Math.min(0, ...sizes), max: panel.max ?? Math.max(1, ...sizes), inRange: { color: colours.heat } },
    tooltip: tooltip(colours, {
      trigger: "item",
      formatter: (point) => {
        const [at, y, value] = point.value;
        const title = x.kind === "time" ? `${time(x.values[at])} UTC` : String(x.values[at]);
        return tip(title, [{ colour: point.color, name: rows[y].name, value: withUnit(value, panel.unit, panel.decimals) }]);
      },
    }),
    series: [{ type: "heatmap", data: cells, itemStyle: { borderColor: colours.panel, borderWidth: 1.5, borderRadius: 2 }, emphasis: { disabled: true }, progressiveThreshold: 100_000 }],
  };
  return { option, legend: [], timeAxis: false, left: shape.series.length - rows.length };
}

/** What to draw of `answer` in that `width`: `{option, legend, timeAxis, left}`; `left` series are too many to draw. */
export function drawing(panel, answer, colours, hidden, width) {
  if (panel.chart === "pie") return pie(panel, answer, colours, hidden);
  if (panel.chart === "heatmap") return heatmap(panel, answer, colours);
  return overAxis(panel, answer, colours, hidden, width);
}
