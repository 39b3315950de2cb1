// Asking the server: statements, and errors in its own words.

/** What the server said when it could not: `message`, `hint`, `causes`. */
export class Refusal extends Error {
  constructor({ message, hint, causes }, status) {
    super(message);
    this.hint = hint ?? "";
    this.causes = causes ?? [];
    this.status = status;
  }
}

/** Sends a statement; the response, or a Refusal. */
export async function send(sql, accept, signal) {
  const response = await fetch("/v1/sql", {
    method: "POST",
    headers: { "Content-Type": "text/plain; charset=utf-8", Accept: accept },
    body: sql,
    signal,
  });
  if (response.ok) return response;
  const text = await response.text();
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    error = { message: text || `the server answered ${response.status}` };
  }
  throw new Refusal(error, response.status);
}

/** A statement's rows, few of them. */
export async function rows(sql, signal) {
  return (await send(sql, "application/json", signal)).json();
}

/** The columns of a response: `{name, kind, type}`. */
export function columns(response, first) {
  const told = response.headers.get("tarn-columns");
  if (told) return JSON.parse(told);
  return Object.entries(first ?? {}).map(([name, value]) => ({ name, type: "", kind: typeof value === "number" ? "number" : "text" }));
}

/** `name` as SQL reads it. */
export function quoted(name) {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

/** The type of a column as SQL has it; what is none of these stays. */
export function sqlType(type) {
  const names = { Utf8View: "VARCHAR", Utf8: "VARCHAR", LargeUtf8: "VARCHAR", Int8: "TINYINT", Int16: "SMALLINT", Int32: "INT", Int64: "BIGINT", UInt64: "BIGINT UNSIGNED", Float32: "REAL", Float64: "DOUBLE", Boolean: "BOOLEAN", Date32: "DATE", BinaryView: "BINARY", Binary: "BINARY" };
  return names[type] ?? type.replace(/^Timestamp\(.*\)$/, "TIMESTAMP").replace(/^Decimal128\((\d+), (\d+)\)$/, "DECIMAL($1,$2)");
}

/** All tables and views with their columns: `Map(name → {name, columns})`. */
export async function catalog() {
  const found = await rows("SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, ordinal_position");
  const tables = new Map();
  for (const row of found) {
    const key = row.table_name.toLowerCase();
    if (!tables.has(key)) tables.set(key, { name: row.table_name, columns: [] });
    tables.get(key).columns.push({ name: row.column_name, type: sqlType(row.data_type) });
  }
  return tables;
}
