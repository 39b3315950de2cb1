// Rows as they come over the wire: kept as bytes, read only where somebody looks.
//
// Why: a million rows as objects are a gigabyte and a long pause; as the bytes that came they are what they are.

const MOST_BYTES = 768 << 20;
export const MOST_ROWS = 5_000_000;

export class Rows {
  constructor() {
    /** @type {{first: number, bytes: Uint8Array, starts: Uint32Array}[]} */
    this.blocks = [];
    this.count = 0;
    this.size = 0;
    this.rest = new Uint8Array(0);
    this.decoder = new TextDecoder();
    this.seen = new Map();
  }

  /** Takes bytes of NDJSON; false once there are more than can be kept. */
  take(more) {
    let bytes = more;
    if (this.rest.length) {
      bytes = new Uint8Array(this.rest.length + more.length);
      bytes.set(this.rest);
      bytes.set(more, this.rest.length);
    }
    const end = bytes.lastIndexOf(10) + 1;
    this.rest = bytes.slice(end);
    if (end > 0) {
      const starts = [0];
      for (let at = bytes.indexOf(10); at >= 0 && at + 1 < end; at = bytes.indexOf(10, at + 1)) starts.push(at + 1);
      this.blocks.push({ first: this.count, bytes: bytes.slice(0, end), starts: Uint32Array.from(starts) });
      this.count += starts.length;
      this.size += end;
    }
    return this.size < MOST_BYTES && this.count < MOST_ROWS;
  }

  /** Row `at` as an object. */
  get(at) {
    const known = this.seen.get(at);
    if (known) return known;
    let low = 0;
    let high = this.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.blocks[middle].first <= at) low = middle;
      else high = middle - 1;
    }
    const block = this.blocks[low];
    const place = at - block.first;
    const end = place + 1 < block.starts.length ? block.starts[place + 1] : block.bytes.length;
    const row = JSON.parse(this.decoder.decode(block.bytes.subarray(block.starts[place], end)), exact);
    if (this.seen.size > 2000) this.seen.clear();
    this.seen.set(at, row);
    return row;
  }

  /** The first `most` rows. */
  head(most) {
    return Array.from({ length: Math.min(most, this.count) }, (_, at) => this.get(at));
  }
}

/** Whole numbers beyond what JavaScript can hold stay text, digit by digit. */
function exact(_, value, context) {
  const source = context?.source;
  return typeof value === "number" && source && !Number.isSafeInteger(value) && /^-?\d+$/.test(source) ? source : value;
}
