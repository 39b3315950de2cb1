// Numbers and times as people read them.

const BEFORE = ["$", "€", "£"];
const grouped = new Map();

/** `1,234.5`, with that many digits behind the point, or as many as tell something. */
export function plain(value, decimals) {
  const key = `${decimals}`;
  if (!grouped.has(key)) {
    const digits = decimals ?? undefined;
    grouped.set(key, new Intl.NumberFormat("en", { minimumFractionDigits: digits ?? 0, maximumFractionDigits: digits ?? 3 }));
  }
  const size = Math.abs(value);
  if (decimals === undefined || decimals === null) {
    if (size >= 100 && !Number.isInteger(value)) return plain(value, size >= 1000 ? 0 : 1);
    if (size >= 1 && !Number.isInteger(value)) return plain(value, 2);
    if (size > 0 && size < 0.01) return value.toPrecision(2);
  }
  return grouped.get(key).format(value);
}

/** `12.3k`, `4.5M`: short enough for an axis. */
export function short(value, decimals) {
  const size = Math.abs(value);
  for (const [least, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= least) return `${trimmed(value / (least === 1e4 ? 1e3 : least))}${letter}`;
  }
  return plain(value, decimals);
}

function trimmed(value) {
  return value.toFixed(Math.abs(value) >= 100 ? 0 : 1).replace(/\.0$/, "");
}

function bytes(value) {
  const size = Math.abs(value);
  for (const [least, name] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (size >= least) return `${trimmed(value / least)} ${name}`;
  }
  return `${plain(value, 0)} B`;
}

function seconds(value) {
  const size = Math.abs(value);
  if (size >= 172800) return `${trimmed(value / 86400)} d`;
  if (size >= 7200) return `${trimmed(value / 3600)} h`;
  if (size >= 120) return `${trimmed(value / 60)} min`;
  if (size >= 1 || size === 0) return `${plain(value, size < 10 && !Number.isInteger(value) ? 2 : undefined)} s`;
  return size >= 0.001 ? `${trimmed(value * 1000)} ms` : `${trimmed(value * 1e6)} µs`;
}

/** A value with its unit; `brief` for axes and small places. */
export function withUnit(value, unit, decimals, brief = false) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const number = brief ? short : plain;
  switch (unit) {
    case undefined:
    case null:
    case "":
      return number(value, decimals);
    case "bytes":
      return bytes(value);
    case "s":
      return seconds(value);
    case "ms":
      return Math.abs(value) < 1000 ? `${plain(value, decimals ?? (Math.abs(value) < 10 ? 1 : 0))} ms` : seconds(value / 1000);
    case "percent":
      return `${plain(value, decimals ?? 1)}%`;
    case "ratio":
      return `${plain(value * 100, decimals ?? 1)}%`;
    default:
      return BEFORE.includes(unit) ? `${value < 0 ? "−" : ""}${unit}${number(Math.abs(value), decimals)}` : `${number(value, decimals)} ${unit}`;
  }
}

const two = (number) => String(number).padStart(2, "0");

/** `2026-05-01 12:00:00` (UTC), with milliseconds where there are any. */
export function time(value) {
  const date = new Date(typeof value === "string" && !/Z|[+-]\d\d:?\d\d$/.test(value) ? `${value}Z` : value);
  if (Number.isNaN(date.getTime())) return String(value);
  const text = date.toISOString();
  const part = text.slice(19, 23) === ".000" ? "" : text.slice(19, 23);
  return `${text.slice(0, 10)} ${text.slice(11, 19)}${part}`;
}

/** A moment in ms for a value of a column of times or days. */
export function moment(value) {
  if (typeof value === "number") return value;
  const text = String(value);
  return Date.parse(/T/.test(text) && !/Z|[+-]\d\d:?\d\d$/.test(text) ? `${text}Z` : text);
}

/** `12:05` or `05-01 12:05` or `2026-05-01`, by how much time the axis shows. All in UTC. */
export function timeLabel(ms, span) {
  const date = new Date(ms);
  const clock = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
  const day = `${two(date.getUTCMonth() + 1)}-${two(date.getUTCDate())}`;
  if (span <= 10 * 60e3) return `${clock}:${two(date.getUTCSeconds())}`;
  if (span <= 26 * 3600e3) return clock;
  if (span <= 8 * 86400e3) return clock === "00:00" ? day : `${day} ${clock}`;
  return span <= 300 * 86400e3 ? day : `${date.getUTCFullYear()}-${two(date.getUTCMonth() + 1)}`;
}

/** What a cell shows. */
export function cell(value, kind) {
  if (value === null || value === undefined) return "NULL";
  if (kind === "time") return time(value);
  if (kind === "number" && typeof value === "number") {
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(12)));
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** The value as a number, for drawing. */
export function number(value) {
  if (value === null || value === undefined || value === "") return null;
  const parsed = Number(value);
  return Number.isNaN(parsed) ? null : parsed;
}

/** `just now`, `12 s ago`, `5 min ago`. */
export function ago(ms) {
  const passed = Math.max(0, (Date.now() - ms) / 1000);
  if (passed < 2) return "just now";
  if (passed < 100) return `${Math.round(passed)} s ago`;
  if (passed < 5400) return `${Math.round(passed / 60)} min ago`;
  return passed < 129600 ? `${Math.round(passed / 3600)} h ago` : `${Math.round(passed / 86400)} days ago`;
}
