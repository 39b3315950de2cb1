// The one event stream of a page: opened again by itself, and honest about how old it is.
//
// States: `connecting` (nothing has come yet), `live`, `stale` (nothing was heard for a while), `lost` (trying again).

const SILENCE_MS = 12_000;
const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 4_000;
const EVENTS = ["dashboard", "variable", "panel", "trouble"];

export class PageStream {
  /**
   * @param {string} url
   * @param {{apply: (events: {name: string, data: any}[], at: number) => void, state: (state: string) => void}} reader
   *   `apply` gets all that belongs on the page at once.
   */
  constructor(url, reader) {
    this.url = url;
    this.reader = reader;
    this.retryMs = FIRST_RETRY_MS;
    this.heard = Date.now();
    this.watch = setInterval(() => this.check(), 1000);
    this.state("connecting");
    this.open();
  }

  close() {
    clearInterval(this.watch);
    clearTimeout(this.again);
    this.source?.close();
    this.closed = true;
  }

  state(state) {
    if (state !== this.known) {
      this.known = state;
      this.reader.state(state);
    }
  }

  open() {
    const source = new EventSource(this.url);
    this.source = source;
    let waiting = [];
    const heard = () => {
      this.heard = Date.now();
      this.retryMs = FIRST_RETRY_MS;
      this.state("live");
    };
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => waiting.push({ name, data: JSON.parse(event.data) }));
    }
    source.addEventListener("progress", (event) => {
      const events = waiting;
      waiting = [];
      heard();
      this.reader.apply(events, JSON.parse(event.data).at);
    });
    source.addEventListener("beat", heard);
    source.addEventListener("error", () => {
      // EventSource gives up where the server says anything but 200, so it is always opened anew here.
      source.close();
      if (this.closed) return;
      this.state("lost");
      this.again = setTimeout(() => this.open(), this.retryMs);
      this.retryMs = Math.min(this.retryMs * 2, LAST_RETRY_MS);
    });
  }

  check() {
    if (this.known === "live" && Date.now() - this.heard > SILENCE_MS) this.state("stale");
  }
}
