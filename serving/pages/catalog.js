// The catalog: topics, tables and views, and all about the one that is chosen.

import { catalog as learn, quoted, rows as ask } from "./ask.js";
import { ago, cell, moment, plain, withUnit } from "./format.js";
import { element } from "./frame.js";

const SAMPLE = 20;
const EVERY_MS = 2000;

const place = document.getElementById("catalog");
const find = element("input", { type: "search", placeholder: "Find a table, a column", "aria-label": "Find", oninput: () => drawList() });
const list = element("nav", { "aria-label": "Catalog" });
const detail = element("section", { class: "detail", "aria-live": "polite" });
place.append(element("aside", {}, find, list), detail);

let status = { tables: [], topics: [], sources: [] };
let views = [];
let schema = new Map();
let chosen = "";

const hash = (kind, name) => `#${kind}/${encodeURIComponent(name)}`;

async function look() {
  try {
    const response = await fetch("/v1/status");
    status = await response.json();
    if (status.ready) {
      [views, schema] = await Promise.all([ask("SHOW VIEWS"), learn()]);
    }
    place.dataset.state = "ready";
  } catch {
    place.dataset.state = "lost";
  }
  drawList();
  drawFacts();
  setTimeout(look, EVERY_MS);
}

function entries() {
  const columns = (name) => schema.get(name.toLowerCase())?.columns ?? [];
  return [
    ["Tables", "table", status.tables.map((table) => ({ name: table.name, note: `${plain(table.lake_rows + table.tail_rows)} rows`, bad: Boolean(table.last_error) || table.dead_letters > 0, columns: columns(table.name) }))],
    ["Views", "view", views.map((view) => ({ name: view.view, note: view.kept_as, bad: Boolean(view.trouble), columns: columns(view.view) }))],
    ["Topics", "topic", status.topics.map((topic) => ({ name: topic.name, note: `${topic.partitions.length} partition${topic.partitions.length === 1 ? "" : "s"}`, bad: false, columns: [] }))],
  ];
}

function drawList() {
  const wanted = find.value.trim().toLowerCase();
  const fits = (entry) => !wanted || entry.name.toLowerCase().includes(wanted) || entry.columns.some((column) => column.name.toLowerCase().includes(wanted));
  const parts = entries().flatMap(([title, kind, all]) => {
    const shown = all.filter(fits);
    return [
      element("h2", {}, title, " ", element("em", {}, String(shown.length))),
      ...shown.map((entry) => element("a", { href: hash(kind, entry.name), "aria-current": chosen === hash(kind, entry.name) ? "true" : undefined }, element("span", { class: entry.bad ? "bad" : undefined }, entry.name), element("em", {}, entry.note))),
    ];
  });
  const focused = document.activeElement?.getAttribute?.("href");
  list.replaceChildren(...parts);
  if (focused) list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  if (!chosen && !location.hash) {
    const first = list.querySelector("a");
    // Wide, the first is shown at once; narrow, the list is.
    if (first && matchMedia("(min-width: 801px)").matches) choose(first.getAttribute("href"));
  }
}

function choose(to) {
  chosen = to;
  place.classList.toggle("chosen", Boolean(to));
  const [, kind, name] = /^#(table|view|topic)\/(.*)$/.exec(to) ?? [];
  if (!kind) return detail.replaceChildren();
  drawList();
  show(kind, decodeURIComponent(name));
}

/** A table of `rows`; columns as they come. */
function grid(rows, kinds = {}) {
  if (!rows.length) return element("p", { class: "dim" }, "None.");
  const names = Object.keys(rows[0]);
  const right = (name) => kinds[name] === "number" || (!(name in kinds) && rows.some((row) => typeof row[name] === "number") && rows.every((row) => row[name] === null || typeof row[name] === "number"));
  return element(
    "div",
    { class: "scroll", tabindex: "0" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { class: right(name) ? "n" : undefined }, name)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...names.map((name) => {
        const text = cell(row[name], kinds[name]);
        const shown = text.length > 120 ? `${text.slice(0, 120)}…` : text;
        return element("td", { class: row[name] === null ? "null" : right(name) ? "n" : undefined, title: shown === text ? undefined : text }, shown);
      })))),
    ),
  );
}

function facts(pairs) {
  return element("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined).map(([name, value, bad]) => element("div", {}, element("dt", {}, name), element("dd", { class: bad ? "bad" : undefined }, value))));
}

function section(title, ...children) {
  return element("section", {}, element("h2", {}, title), ...children);
}

/** A section whose rows are asked for. */
function asked(title, sql, draw = grid) {
  const body = element("div", {}, element("p", { class: "dim" }, "asking …"));
  ask(sql).then(
    (rows) => body.replaceChildren(draw(rows)),
    (error) => body.replaceChildren(element("p", { class: "error" }, error.message, error.hint ? ` (${error.hint})` : "")),
  );
  return section(title, body);
}

const inSql = (sql) => `/sql#q=${encodeURIComponent(sql)}`;

function drawFacts() {
  const old = detail.querySelector(".facts");
  const [, kind, name] = /^#(table|view|topic)\/(.*)$/.exec(chosen) ?? [];
  if (!kind) return;
  const now = factsOf(kind, decodeURIComponent(name));
  if (old && now) old.replaceWith(now);
  else if (!old && now) show(kind, decodeURIComponent(name));
}

function factsOf(kind, name) {
  if (kind === "table") {
    const table = status.tables.find((one) => one.name === name);
    return (
      table &&
      facts([
        ["State", table.state, table.state !== "running"],
        ["Topic", element("a", { href: hash("topic", table.topic) }, table.topic)],
        ["Rows in the lake", plain(table.lake_rows)],
        ["Rows in the tail", plain(table.tail_rows)],
        ["Dead letters", plain(table.dead_letters), table.dead_letters > 0],
        ["Files", plain(table.files)],
        ["Size in the lake", withUnit(table.lake_bytes, "bytes")],
        ["Delta version", table.version === null ? "–" : String(table.version)],
        ["Not in the lake for", withUnit(table.uncommitted_s, "s")],
        ["Not in SQL yet", `${plain(table.lag_records)} records`, table.lag_records > 10_000],
        ["Error", table.last_error ? `${table.last_error.message} (${ago(table.last_error.at_ms)})` : null, true],
      ])
    );
  }
  if (kind === "view") {
    const view = views.find((one) => one.view === name);
    return (
      view &&
      facts([
        ["Kept as", view.kept_as],
        ["Version", view.version === null ? "–" : String(view.version)],
        ["Behind", view.lag_records === null ? null : `${plain(view.lag_records)} records`],
        ["Oldest of them", view.lag_s === null ? null : withUnit(view.lag_s, "s")],
        ["States in memory", view.live_bytes === null ? null : withUnit(view.live_bytes, "bytes")],
        ["States in the lake", view.lake_bytes === null ? null : withUnit(view.lake_bytes, "bytes")],
        ["Trouble", view.trouble, true],
      ])
    );
  }
  const topic = status.topics.find((one) => one.name === name);
  return (
    topic &&
    facts([
      ["Records", plain(topic.partitions.reduce((sum, one) => sum + one.end - one.start, 0))],
      ["Size on disk", withUnit(topic.partitions.reduce((sum, one) => sum + one.size_bytes, 0), "bytes")],
      ["Filled by", status.sources.filter((source) => source.topic === name).map((source) => source.name).join(", ") || "whoever pushes"],
      ["Read by", status.tables.filter((table) => table.topic === name).map((table) => table.name).join(", ") || "no table"],
    ])
  );
}

function show(kind, name) {
  const now = factsOf(kind, name);
  const back = element("a", { class: "back", href: "#" }, "← Catalog");
  if (!now) return detail.replaceChildren(back, element("p", { class: "dim" }, `There is no ${kind} ${name} here, or not yet.`));
  const head = element("header", {}, element("p", { class: "dim" }, kind), element("h1", {}, name));
  const parts = [back, head, now];
  if (kind !== "topic") {
    const table = quoted(name);
    const sql = `SELECT * FROM ${table} LIMIT ${SAMPLE}`;
    head.append(element("a", { class: "open", href: inSql(sql) }, "Open in SQL"));
    const columns = schema.get(name.toLowerCase())?.columns ?? [];
    if (kind === "table") parts.push(asked("Freshness", `SELECT max(_timestamp) AS newest FROM ${table}`, ([row]) => element("p", {}, row?.newest ? `Newest record ${ago(moment(row.newest))}, ${cell(row.newest, "time")} UTC` : "No record yet.")));
    if (kind === "view") parts.push(asked("Definition", `EXPLAIN VIEW ${table}`, explained));
    parts.push(section("Columns", grid(columns.map((column) => ({ column: column.name, type: column.type })))));
    parts.push(asked("Sample rows", sql));
    if (kind === "table") {
      const dead = quoted(`${name}_dead_letters`);
      const reasons = `SELECT reason, count(*) AS records, max(_timestamp) AS last FROM ${dead} GROUP BY 1 ORDER BY 2 DESC LIMIT 10`;
      const newest = `SELECT reason, field, _partition, _offset, value, headers FROM ${dead} ORDER BY _timestamp DESC LIMIT 10`;
      if (status.tables.find((one) => one.name === name)?.dead_letters > 0) {
        parts.push(asked("Dead letters, by reason", reasons), asked("Newest dead letters", newest));
      } else parts.push(section("Dead letters", element("p", { class: "dim" }, "None: every record fitted.")));
    }
  } else {
    const topic = status.topics.find((one) => one.name === name);
    parts.push(section("Partitions", grid(topic.partitions.map((one) => ({ partition: one.partition, "first offset": one.start, "next offset": one.end, size: withUnit(one.size_bytes, "bytes") })))));
  }
  detail.replaceChildren(...parts);
}

function explained(rows) {
  const query = rows.find((row) => row.property === "query");
  return element(
    "div",
    {},
    query ? element("pre", {}, query.value.split("\n").map((line) => line.replace(/^ {4}/, "")).join("\n")) : null,
    grid(rows.filter((row) => row.property !== "query")),
  );
}

addEventListener("hashchange", () => choose(location.hash));
await look();
if (location.hash) choose(location.hash);
