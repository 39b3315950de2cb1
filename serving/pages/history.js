// What was asked in this browser, kept in this browser.

import { ago, plain } from "./format.js";
import { element } from "./frame.js";

const KEY = "tarn-history";
const MOST = 200;

export class History {
  constructor() {
    try {
      this.entries = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    } catch {
      this.entries = [];
    }
  }

  add(entry) {
    this.entries = [entry, ...this.entries.filter((old) => old.sql !== entry.sql)].slice(0, MOST);
    try {
      localStorage.setItem(KEY, JSON.stringify(this.entries));
    } catch {
      // It lasts as long as the page, then.
    }
  }

  /** Shows all; `choose` gets the statement that was picked. */
  open(choose) {
    const list = element("ol", { class: "past" });
    const find = element("input", { type: "search", placeholder: "Find", "aria-label": "Find in the history", oninput: () => draw() });
    const dialog = element(
      "dialog",
      { class: "history", "aria-label": "History" },
      element("header", {}, element("h2", {}, "History"), find, element("button", { type: "button", onclick: () => dialog.close() }, "Close")),
      list,
    );
    const draw = () => {
      const wanted = find.value.toLowerCase();
      const found = this.entries.filter((entry) => entry.sql.toLowerCase().includes(wanted));
      list.replaceChildren(
        ...found.map((entry) =>
          element(
            "li",
            {},
            element(
              "button",
              {
                type: "button",
                class: "quiet",
                onclick: () => {
                  dialog.close();
                  choose(entry.sql);
                },
              },
              element("code", {}, entry.sql),
              element("em", {}, `${ago(entry.at)} · ${plain(entry.rows)} rows · ${plain(entry.ms)} ms`),
            ),
          ),
        ),
      );
      if (!found.length) list.append(element("li", { class: "dim" }, "Nothing yet."));
    };
    draw();
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }
}
