// The SQL page: write, run, cancel, look, draw, download, share.

import { Refusal, catalog, columns, rows as ask, send } from "./ask.js";
import { Editor } from "./editor.js";
import { Grid } from "./grid.js";
import { QuickChart } from "./quick_chart.js";
import { Rows } from "./rows.js";
import { History } from "./history.js";
import { ago, plain } from "./format.js";
import { element } from "./frame.js";

const FORMATS = [
  ["csv", "CSV", "text/csv"],
  ["parquet", "Parquet", "application/vnd.apache.parquet"],
  ["json", "JSON", "application/json"],
  ["arrow", "Arrow", "application/vnd.apache.arrow.stream"],
];

const place = document.getElementById("sql");
const past = new History();
const runButton = element("button", { class: "main", type: "button", title: "Ctrl+Enter", onclick: () => run() }, "Run");
const cancelButton = element("button", { type: "button", disabled: true, title: "Escape", onclick: () => running?.abort() }, "Cancel");
const explainButton = element("button", { type: "button", title: "How it would be answered", onclick: () => run(true) }, "Explain");
const linkButton = element("button", { type: "button", title: "Copy a link that carries this query", onclick: link }, "Copy link");
const historyButton = element("button", { type: "button", onclick: () => past.open((sql) => (editor.text = sql)) }, "History");
const download = element(
  "select",
  { "aria-label": "Download the answer", onchange: fetchFile },
  element("option", { value: "" }, "Download …"),
  ...FORMATS.map(([value, name]) => element("option", { value }, name)),
);
const editing = element("section", { class: "editing", "aria-label": "Statement" });
const said = element("p", { class: "said", role: "status", "aria-live": "polite" });
const tabs = element("div", { class: "tabs", role: "tablist" });
const pane = element("section", { class: "pane" });
const side = element("aside", { class: "tables", "aria-label": "Tables" }, element("h2", {}, "Tables"), element("p", { class: "dim" }, "looking …"));
const note = element("p", { id: "keys", class: "dim keys" }, "Ctrl+Enter runs, Ctrl+Space completes, Escape cancels");
place.append(
  side,
  element("div", { class: "work" }, editing, element("div", { class: "buttons" }, runButton, cancelButton, explainButton, element("span", { class: "grow" }), historyButton, linkButton, download), note, said, tabs, pane),
);

const editor = new Editor(editing, { run: () => run(), changed: (text) => sessionStorage.setItem("tarn-sql", text) });
const views = { rows: element("div", { class: "rows-view" }), chart: element("div", { class: "chart-view" }), plan: element("pre", { class: "plan" }) };
const grid = new Grid(views.rows);
const chart = new QuickChart(views.chart);
let running = null;
let answer = null;
pane.append(element("p", { class: "empty" }, "Write a statement and press Run. A statement can only read, so try what you like."));

function show(name, names) {
  tabs.replaceChildren(
    ...names.map(([one, label]) => element("button", { type: "button", class: "quiet", role: "tab", "aria-selected": String(one === name), onclick: () => show(one, names) }, label)),
  );
  pane.classList.remove("old");
  pane.replaceChildren(views[name]);
  if (name === "rows") grid.later();
  if (name === "chart" && answer) chart.show(answer.columns, answer.rows);
}

async function run(explain = false) {
  const sql = editor.text.trim();
  if (!sql || running) return;
  const mine = new AbortController();
  running = mine;
  answer = null;
  runButton.disabled = true;
  cancelButton.disabled = false;
  said.className = "said";
  said.textContent = "running …";
  pane.classList.add("old");
  history.replaceState(null, "", `#q=${encodeURIComponent(sql)}`);
  const began = performance.now();
  try {
    if (explain) await plan(sql, mine.signal);
    else await read(sql, mine.signal, began);
  } catch (error) {
    complain(error);
  } finally {
    running = null;
    runButton.disabled = false;
    cancelButton.disabled = true;
  }
}

async function plan(sql, signal) {
  const text = /^\s*explain\b/i.test(sql) ? sql : `EXPLAIN ${sql}`;
  const found = await ask(text, signal);
  views.plan.textContent = found.map((row) => ("plan" in row ? `${row.plan_type}\n${row.plan}` : Object.values(row).join("  "))).join("\n");
  said.textContent = "";
  show("plan", [["plan", "Plan"]]);
}

async function read(sql, signal, began) {
  const response = await send(sql, "application/x-ndjson", signal);
  const rows = new Rows();
  const reader = response.body.getReader();
  let known = response.headers.has("tarn-columns") ? columns(response) : null;
  let whole = true;
  const begin = () => {
    answer = { columns: known, rows };
    grid.show(known, rows);
    show("rows", [["rows", "Rows"], ["chart", "Chart"]]);
  };
  if (known) begin();
  let told = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    whole = rows.take(value);
    if (!known && rows.count) {
      known = columns(response, rows.get(0));
      begin();
    }
    if (performance.now() - told > 100) {
      told = performance.now();
      grid.grow();
      said.textContent = `${plain(rows.count)} rows …`;
    }
    if (!whole) {
      await reader.cancel();
      break;
    }
  }
  if (!known) {
    known = [];
    begin();
  }
  grid.grow();
  const took = performance.now() - began;
  const time = took < 1000 ? `${Math.round(took)} ms` : `${(took / 1000).toFixed(2)} s`;
  const count = `${plain(rows.count)} row${rows.count === 1 ? "" : "s"} in ${time}`;
  said.textContent = whole ? count : `${count}: there are more, which a page cannot hold. Download them instead`;
  said.title = `seen at ${response.headers.get("tarn-vector") ?? ""}`;
  past.add({ sql, at: Date.now(), rows: rows.count, ms: Math.round(took) });
}

function complain(error) {
  if (error.name === "AbortError") {
    said.textContent = answer ? `cancelled; ${plain(answer.rows.count)} rows had come` : "cancelled";
    grid.grow();
    return;
  }
  if (!(error instanceof Refusal)) {
    said.className = "said error";
    said.textContent = `the answer broke off: ${error.message}`;
    return;
  }
  said.className = "said error";
  const wrong = /`([^`]+)`/.exec(error.message)?.[1];
  const right = /^did you mean `([^`]+)`\?$/.exec(error.hint)?.[1];
  const mend = wrong && right ? element("button", { type: "button", onclick: () => editor.replace(wrong.split(".").at(-1), right.split(".").at(-1)) && (said.textContent = "") }, `Use ${right}`) : null;
  said.replaceChildren(
    element("b", {}, `error: ${error.message}`),
    ...error.causes.map((cause) => element("span", {}, cause)),
    ...(error.hint ? [element("span", { class: "hint" }, `hint: ${error.hint}`, " ", mend)] : []),
  );
}

async function link() {
  const sql = editor.text.trim();
  history.replaceState(null, "", `#q=${encodeURIComponent(sql)}`);
  try {
    await navigator.clipboard.writeText(location.href);
    said.textContent = "the link is on the clipboard";
  } catch {
    said.textContent = "the link stands in the address bar";
  }
}

async function fetchFile() {
  const [name, , accept] = FORMATS.find(([value]) => value === download.value) ?? [];
  download.value = "";
  const sql = editor.text.trim();
  if (!name || !sql) return;
  said.className = "said";
  said.textContent = "downloading …";
  try {
    const blob = await (await send(sql, accept)).blob();
    const url = URL.createObjectURL(blob);
    const anchor = element("a", { href: url, download: `answer.${name}` });
    document.body.append(anchor);
    anchor.click();
    anchor.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    said.textContent = `answer.${name}: ${plain(blob.size)} bytes`;
  } catch (error) {
    complain(error);
  }
}

async function learn() {
  try {
    const [tables, functions] = await Promise.all([catalog(), ask("SELECT DISTINCT routine_name AS name FROM information_schema.routines ORDER BY 1")]);
    editor.catalog = { tables, functions: functions.map((row) => row.name) };
    side.replaceChildren(
      element("h2", {}, "Tables"),
      ...[...tables.values()].map((table) =>
        element(
          "details",
          {},
          element("summary", {}, table.name),
          element("button", { type: "button", class: "quiet", onclick: () => ((editor.text = `SELECT * FROM ${table.name} LIMIT 100`), run()) }, "first 100 rows"),
          element("ul", {}, ...table.columns.map((column) => element("li", {}, element("span", {}, column.name), element("em", {}, column.type.toLowerCase())))),
        ),
      ),
    );
  } catch (error) {
    side.replaceChildren(element("p", { class: "dim" }, error.message));
    setTimeout(learn, 3000);
  }
}

function fromLink() {
  const found = /^#q=(.*)$/s.exec(location.hash);
  if (!found) return false;
  try {
    editor.text = decodeURIComponent(found[1]);
  } catch {
    return false;
  }
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
addEventListener("hashchange", () => fromLink() && run());
// A link that was followed runs: nothing can be changed by a statement.
if (fromLink()) run();
else editor.text = sessionStorage.getItem("tarn-sql") ?? past.entries[0]?.sql ?? "SHOW TABLES";
if (past.entries[0]) historyButton.title = `last: ${ago(past.entries[0].at)}`;
learn();
