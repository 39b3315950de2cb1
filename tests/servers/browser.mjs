// A browser that a test drives: one JSON command a line on stdin, one JSON answer a line on stdout.
//
//   {"do": "open", "url": …, "width": 1400, "height": 900, "dark": false}   {"do": "eval", "js": …}
//   {"do": "shot", "path": …}   {"do": "type", "text": …}   {"do": "press", "key": …}   {"do": "seen"}
//   {"do": "drag", "from": [x, y], "to": [x, y]}   {"do": "click", "at": SELECTOR}   {"do": "downloads", "path": FOLDER}
//
// A `key` may have others held down with it: `Control+Enter`. `seen` tells what the page wrote to the console, what it asked of other servers, and what the server refused.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const puppeteer = createRequire(process.env.TARN_NODE_PATH + "/")("puppeteer-core");
// Over a pipe: the browser ends with this process, however that ends.
const browser = await puppeteer.launch({ executablePath: process.env.TARN_CHROMIUM, pipe: true, args: ["--no-sandbox", "--disable-gpu"] });
let page = null;
let seen = null;

const commands = {
  async open({ url, width, height, dark }) {
    await page?.close();
    page = await browser.newPage();
    seen = { console: [], elsewhere: [], refused: [] };
    await page.setViewport({ width, height, deviceScaleFactor: 1, isMobile: width < 500, hasTouch: width < 500 });
    await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
    page.on("console", (message) => {
      if (["error", "warn"].includes(message.type())) seen.console.push(message.text());
    });
    page.on("pageerror", (error) => seen.console.push(String(error)));
    page.on("request", (request) => {
      const asked = new URL(request.url());
      if (!["data:", "blob:"].includes(asked.protocol) && asked.host !== new URL(url).host) seen.elsewhere.push(request.url());
    });
    page.on("response", (response) => {
      if (response.status() >= 400) seen.refused.push(`${response.status()} ${response.url()}`);
    });
    await page.goto(url, { waitUntil: "domcontentloaded" });
  },
  eval: ({ js }) => page.evaluate(js),
  async shot({ path }) {
    // As high as the page is, and drawn so: a capture beyond the viewport lays the page out anew while it is taken.
    const viewport = page.viewport();
    const height = await page.evaluate("Math.max(innerHeight, document.documentElement.scrollHeight)");
    await page.setViewport({ ...viewport, height });
    await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    await page.screenshot({ path, captureBeyondViewport: false });
    await page.setViewport(viewport);
  },
  type: ({ text }) => page.keyboard.type(text),
  async press({ key }) {
    const keys = key.split("+");
    const last = keys.pop();
    for (const held of keys) await page.keyboard.down(held);
    await page.keyboard.press(last);
    for (const held of keys) await page.keyboard.up(held);
  },
  async drag({ from, to }) {
    await page.mouse.move(...from);
    await page.mouse.down();
    await page.mouse.move((from[0] + to[0]) / 2, to[1], { steps: 5 });
    await page.mouse.move(...to, { steps: 5 });
    await page.mouse.up();
  },
  click: ({ at }) => page.click(at),
  async downloads({ path }) {
    const session = await browser.target().createCDPSession();
    await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: path });
  },
  seen: () => seen,
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    const value = await commands[command.do](command);
    console.log(JSON.stringify({ value: value ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error) }));
  }
}
await browser.close();
