// A page in a browser without a screen, for the benchmarks of serving.
//
//   node page.mjs pixel PAGE_URL INGEST_URL PROBES    from an acknowledgement to the value on the page: milliseconds as JSON
//   node page.mjs watch PAGE_URL                      opens the page, prints `{"pid": …}`, and answers each line on stdin with
//                                                     how many updates the page has drawn since the last
//
// Needs puppeteer-core at TARN_NODE_PATH and a Chromium at TARN_CHROMIUM.

import http from "node:http";
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const puppeteer = createRequire(process.env.TARN_NODE_PATH + "/")("puppeteer-core");
const MOST_WAIT_MS = 30_000;
const PROBE = "[...document.querySelectorAll('.panel')].find((panel) => panel.ariaLabel === 'Newest probe')";
const [what, pageUrl, ingestUrl, probes] = process.argv.slice(2);

const browser = await puppeteer.launch({ pipe: true, executablePath: process.env.TARN_CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage();
await page.setViewport({ width: 1400, height: 900 });
await page.evaluateOnNewDocument(() => {
  window.updates = 0;
  const add = EventSource.prototype.addEventListener;
  EventSource.prototype.addEventListener = function (name, listener, ...more) {
    const counted = (event) => {
      if (name === "progress") window.updates += 1;
      return listener(event);
    };
    return add.call(this, name, counted, ...more);
  };
});
await page.goto(pageUrl, { waitUntil: "domcontentloaded" });
await page.waitForFunction("document.querySelector('.panel') && !document.querySelector('.panel[data-state=loading]')", { timeout: MOST_WAIT_MS });

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

/** Sends one record; when its acknowledgement was there whole, ms of this process's clock. */
function push(record) {
  return new Promise((resolve, reject) => {
    const request = http.request(ingestUrl, { method: "POST", agent }, (response) => {
      response.resume();
      response.on("end", () => (response.statusCode === 200 ? resolve(now()) : reject(new Error(`a push was answered ${response.statusCode}`))));
    });
    request.on("error", reject);
    request.setNoDelay(true);
    request.end(JSON.stringify(record));
  });
}

const now = () => performance.timeOrigin + performance.now();
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What must be added to the page's clock to have this process's: from the fastest of some questions. */
async function clockDifference() {
  let best = { took: Infinity };
  for (let at = 0; at < 50; at += 1) {
    const asked = now();
    const theirs = await page.evaluate("performance.timeOrigin + performance.now()");
    const answered = now();
    if (answered - asked < best.took) best = { took: answered - asked, difference: (asked + answered) / 2 - theirs };
  }
  return best.difference;
}

async function pixel() {
  // The first value makes the panel's figure; then each change is noted once the frame that shows it is made: a message that
  // is sent while the frame is prepared is received after it.
  await push({ kind: "probe", n: 0 });
  await page.waitForFunction(`${PROBE}?.querySelector('.figure')?.dataset.value === '0'`, { timeout: MOST_WAIT_MS });
  await page.evaluate(`(() => {
    window.shown = [];
    const figure = ${PROBE}.querySelector('.figure');
    const { port1, port2 } = new MessageChannel();
    port2.onmessage = ({ data }) => window.shown.push([data, performance.timeOrigin + performance.now()]);
    new MutationObserver(() => port1.postMessage(Number(figure.dataset.value))).observe(figure, { attributes: true, attributeFilter: ["data-value"] });
  })()`);
  const difference = await clockDifference();
  const acknowledged = [];
  for (let number = 1; number <= Number(probes); number += 1) {
    acknowledged.push(await push({ kind: "probe", n: number }));
    // Not in step with the server's ticks.
    await pause(150 + Math.random() * 200);
  }
  await page.waitForFunction(`window.shown.at(-1)?.[0] === ${Number(probes)}`, { timeout: MOST_WAIT_MS });
  const shown = await page.evaluate("window.shown");
  const took = [];
  let at = 0;
  for (const [number, moment] of acknowledged.entries()) {
    // A later value shows that this one has come.
    while (shown[at][0] < number + 1) at += 1;
    took.push(shown[at][1] + difference - moment);
  }
  console.log(JSON.stringify(took));
}

async function watch() {
  console.log(JSON.stringify({ pid: browser.process().pid }));
  for await (const _ of createInterface({ input: process.stdin })) {
    const updates = await page.evaluate("(() => { const count = window.updates; window.updates = 0; return count; })()");
    console.log(JSON.stringify({ updates }));
  }
}

try {
  await { pixel, watch }[what]();
} finally {
  await browser.close();
}
