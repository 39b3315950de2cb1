// The pipeline as a picture that moves: sources, topics, tables, views, and what flows between them.

import { rows as ask } from "./ask.js";
import { ago, plain, short, withUnit } from "./format.js";
import { element } from "./frame.js";

const EVERY_MS = 1000;
const KEPT = 60;
const SVG = "http://www.w3.org/2000/svg";
const LANES = ["Sources", "Topics", "Tables", "Views"];

const place = document.getElementById("pipeline");
const edges = document.createElementNS(SVG, "svg");
edges.setAttribute("class", "edges");
edges.setAttribute("aria-hidden", "true");
const lanes = LANES.map((title) => element("section", { class: "lane", "aria-label": title }, element("h2", {}, title), element("div", { class: "nodes" })));
const head = element("p", { class: "dim", role: "status" }, "looking …");
place.append(element("header", {}, element("h1", {}, "Pipeline"), head), element("div", { class: "flow" }, edges, ...lanes));

/** By node: counts over time, for rates. */
const history = new Map();
const nodes = new Map();
let links = [];

/** What `count` of a node came to since the last look, per second; nothing after the first look, which cannot tell. */
function rate(id, count, at) {
  const seen = history.get(id) ?? { points: [], rates: [] };
  history.set(id, seen);
  const last = seen.points.at(-1);
  seen.points.push({ count, at });
  // Over about three seconds: a generator's bursts are no news.
  while (seen.points.length > 4) seen.points.shift();
  if (last && count < last.count) seen.points = [{ count, at }];
  const first = seen.points[0];
  if (at <= first.at) return undefined;
  const per = (count - first.count) / ((at - first.at) / 1000);
  seen.rates.push(per);
  if (seen.rates.length > KEPT) seen.rates.shift();
  return per;
}

function model(status, views, reads, at) {
  const found = [];
  const flow = [];
  for (const source of status.sources) {
    const id = `source/${source.name}`;
    const per = rate(id, source.records, at);
    found.push({ lane: 0, id, name: source.name, kind: source.kind, state: source.state, rate: per, facts: [[`${plain(source.records)} since start`], source.lag_bytes ? [`${withUnit(source.lag_bytes, "bytes")} to read`] : null], error: source.last_error });
    flow.push([id, `topic/${source.topic}`, per]);
  }
  for (const topic of status.topics) {
    const id = `topic/${topic.name}`;
    const end = topic.partitions.reduce((sum, one) => sum + one.end, 0);
    const size = topic.partitions.reduce((sum, one) => sum + one.size_bytes, 0);
    found.push({ lane: 1, id, name: topic.name, kind: `${topic.partitions.length} partition${topic.partitions.length === 1 ? "" : "s"}`, rate: rate(id, end, at), facts: [[`${plain(end)} records`], [withUnit(size, "bytes")]], spark: true });
  }
  for (const table of status.tables) {
    const id = `table/${table.name}`;
    const per = rate(id, table.lake_rows + table.tail_rows, at);
    const facts = [[`${short(table.lake_rows)} in the lake, ${short(table.tail_rows)} not yet`], [table.lag_records > 0 ? `${plain(table.lag_records)} behind` : "no lag", table.lag_records > 10_000], table.dead_letters > 0 ? [`${plain(table.dead_letters)} dead letters`, true] : null];
    found.push({ lane: 2, id, name: table.name, kind: "table", state: table.state, rate: per, facts, error: table.last_error, href: `/catalog#table/${encodeURIComponent(table.name)}` });
    flow.push([`topic/${table.topic}`, id, per]);
  }
  for (const view of views) {
    const id = `view/${view.view}`;
    const from = reads.get(view.view) ?? [];
    const per = Math.max(0, ...from.map((table) => history.get(`table/${table}`)?.rates.at(-1) ?? 0));
    const facts = [[`kept as ${view.kept_as}`], view.lag_records === null ? null : [view.lag_records > 0 ? `${plain(view.lag_records)} not in the lake yet` : "all in the lake"]];
    found.push({ lane: 3, id, name: view.view, kind: "view", facts, error: view.trouble ? { message: view.trouble } : null, href: `/catalog#view/${encodeURIComponent(view.view)}` });
    for (const table of from) flow.push([nodeOf(table, status), id, per]);
  }
  const name = (id) => id.slice(id.indexOf("/") + 1);
  for (const node of found) node.to = flow.filter(([from]) => from === node.id).map(([, to]) => name(to));
  return { found: ordered(found, flow), flow };
}

/** Each lane in the order of what its nodes hang on, so that fewer lines cross: topics by name, the others after them. */
function ordered(found, flow) {
  const topics = found.filter((node) => node.lane === 1).map((node) => node.id);
  const place = new Map(topics.map((id, at) => [id, at]));
  const toPlace = (id, from) => {
    const near = flow.filter(([a, b]) => (from ? b === id : a === id)).map(([a, b]) => place.get(from ? a : b)).filter((at) => at !== undefined);
    if (near.length) place.set(id, near.reduce((sum, at) => sum + at, 0) / near.length);
    return place.get(id) ?? 1e6;
  };
  for (const node of found.filter((one) => one.lane === 0)) toPlace(node.id, false);
  for (const lane of [2, 3]) for (const node of found.filter((one) => one.lane === lane)) toPlace(node.id, true);
  return [...found].sort((a, b) => a.lane - b.lane || (place.get(a.id) ?? 1e6) - (place.get(b.id) ?? 1e6) || a.name.localeCompare(b.name));
}

const nodeOf = (name, status) => (status.tables.some((table) => table.name === name) ? `table/${name}` : `view/${name}`);

function drawNode(node) {
  let box = nodes.get(node.id);
  if (!box) {
    box = element(node.href ? "a" : "div", { class: "node", href: node.href });
    nodes.set(node.id, box);
    lanes[node.lane].lastElementChild.append(box);
  }
  const bad = Boolean(node.error) || ["waiting", "refused"].includes(node.state);
  box.dataset.state = bad ? "bad" : node.rate > 0 ? "moving" : "still";
  const text = JSON.stringify([node.to, node.kind, node.state, node.rate?.toFixed(1), node.facts, node.error]);
  if (box.shown === text) return;
  box.shown = text;
  box.replaceChildren(
    element("div", { class: "top" }, element("b", {}, node.name), node.rate === undefined ? null : element("span", { class: "rate" }, `${short(node.rate >= 10 ? Math.round(node.rate) : Math.round(node.rate * 10) / 10)}/s`)),
    element("div", { class: "kind" }, node.kind, node.state && node.state !== "running" ? ` · ${node.state}` : ""),
    ...(node.spark && history.get(node.id).rates.length > 1 ? [spark(history.get(node.id).rates)] : []),
    ...node.facts.filter(Boolean).map(([fact, alarming]) => element("div", { class: alarming ? "fact bad" : "fact" }, fact)),
    node.to.length ? element("div", { class: "via" }, `→ ${node.to.join(", ")}`) : "",
    ...(node.error ? [element("div", { class: "fact bad" }, `${node.error.message}${node.error.at_ms ? ` (${ago(node.error.at_ms)})` : ""}`)] : []),
  );
}

function spark(rates) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${KEPT - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  const most = Math.max(1, ...rates);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", `M${rates.map((value, at) => `${KEPT - rates.length + at} ${(19 - (18 * value) / most).toFixed(1)}`).join("L")}`);
  svg.append(path);
  return svg;
}

function drawEdges() {
  const frame = edges.getBoundingClientRect();
  const wanted = links.filter(([from, to]) => nodes.has(from) && nodes.has(to));
  while (edges.children.length > wanted.length) edges.lastChild.remove();
  wanted.forEach(([from, to, per], at) => {
    const [a, b] = [nodes.get(from).getBoundingClientRect(), nodes.get(to).getBoundingClientRect()];
    const path = edges.children[at] ?? edges.appendChild(document.createElementNS(SVG, "path"));
    const back = b.left <= a.left;
    const [x1, y1] = [a.right - frame.left, a.top + a.height / 2 - frame.top];
    const [x2, y2] = [(back ? b.right : b.left) - frame.left, b.top + b.height / 2 - frame.top];
    const bend = Math.max(24, (x2 - x1) / 2);
    path.setAttribute("d", `M${x1} ${y1}C${x1 + bend} ${y1} ${back ? x2 + bend : x2 - bend} ${y2} ${x2} ${y2}`);
    path.setAttribute("class", per > 0 ? "moving" : "");
    path.style.strokeWidth = `${1.25 + Math.min(4, Math.log10(1 + (per ?? 0)))}px`;
  });
}

let reads = new Map();
let readsAt = 0;

async function look() {
  try {
    const status = await (await fetch("/v1/status")).json();
    const at = performance.now();
    let views = [];
    if (status.ready) {
      views = await ask("SHOW VIEWS");
      if (at - readsAt > 15_000 || !readsAt) {
        readsAt = at;
        const rows = await ask("SELECT \"view\", value FROM system.explain_view WHERE property = 'reads'");
        reads = new Map(rows.map((row) => [row.view, row.value.split(", ")]));
      }
    }
    const { found, flow } = model(status, views, reads, at);
    const ids = new Set(found.map((node) => node.id));
    for (const [id, box] of nodes) {
      if (ids.has(id)) continue;
      box.remove();
      nodes.delete(id);
    }
    found.forEach(drawNode);
    for (const lane of lanes) {
      const wanted = found.filter((node) => lanes[node.lane] === lane).map((node) => nodes.get(node.id));
      wanted.forEach((box, at) => lane.lastElementChild.children[at] !== box && lane.lastElementChild.insertBefore(box, lane.lastElementChild.children[at]));
    }
    lanes.forEach((lane, at_lane) => (lane.hidden = !found.some((node) => node.lane === at_lane)));
    links = flow;
    const wrong = found.filter((node) => node.error).length;
    head.textContent = `${status.ready ? "SQL answers" : "still reading the log"} · up for ${withUnit(Math.round(status.uptime_s), "s")}${wrong ? ` · ${wrong} with an error` : ""}`;
    place.dataset.state = "ready";
  } catch (error) {
    place.dataset.state = "lost";
    head.textContent = "connection lost, trying again";
    if (!(error instanceof TypeError) && error.status === undefined) throw error;
  } finally {
    drawEdges();
    setTimeout(look, EVERY_MS);
  }
}

new ResizeObserver(drawEdges).observe(place);
look();
