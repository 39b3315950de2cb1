// The editor: a text area with colours behind it and a list of completions before it.
//
// The text area stays what it is, so that selecting, undoing, dictating and screen readers work as everywhere; below it lies
// the same text in colours.

import { element } from "./frame.js";
import { keywords, tokens } from "./lexer.js";

const MOST_OFFERED = 12;

export class Editor {
  /**
   * @param {HTMLElement} place
   * @param {{run: () => void, changed: (text: string) => void}} reader
   */
  constructor(place, reader) {
    this.reader = reader;
    this.catalog = { tables: new Map(), functions: [] };
    this.paint = element("pre", { class: "paint", "aria-hidden": "true" });
    this.area = element("textarea", {
      "aria-label": "SQL",
      spellcheck: "false",
      autocapitalize: "off",
      autocomplete: "off",
      wrap: "off",
      rows: "8",
      "aria-controls": "completions",
      "aria-describedby": "keys",
    });
    this.list = element("ul", { id: "completions", role: "listbox", class: "completions", hidden: true, "aria-label": "Completions" });
    place.append(element("div", { class: "editor" }, this.paint, this.area, this.list));
    this.area.addEventListener("input", () => {
      this.colour();
      this.reader.changed(this.text);
      this.complete(false);
    });
    this.area.addEventListener("scroll", () => this.follow());
    this.area.addEventListener("keydown", (event) => this.key(event));
    this.area.addEventListener("blur", () => setTimeout(() => this.close(), 150));
    this.area.addEventListener("click", () => this.close());
    this.colour();
  }

  get text() {
    return this.area.value;
  }

  set text(text) {
    this.area.value = text;
    this.colour();
    this.reader.changed(text);
  }

  /** Replaces the first whole word `wrong`. */
  replace(wrong, right) {
    const token = tokens(this.text).find((one) => (one.kind === "quoted" ? one.text.slice(1, -1) : one.text) === wrong);
    if (!token) return false;
    this.area.focus();
    this.area.setSelectionRange(token.at, token.at + token.text.length);
    this.insert(right);
    return true;
  }

  colour() {
    this.paint.replaceChildren(...tokens(this.text).map((token) => (token.kind === "space" || token.kind === "sign" ? token.text : element("span", { class: token.kind }, token.text))), "\n");
    this.follow();
  }

  follow() {
    this.paint.scrollTop = this.area.scrollTop;
    this.paint.scrollLeft = this.area.scrollLeft;
  }

  /** Puts `text` in place of the selection, so that it can be undone. */
  insert(text) {
    if (!document.execCommand("insertText", false, text)) {
      this.area.setRangeText(text, this.area.selectionStart, this.area.selectionEnd, "end");
      this.area.dispatchEvent(new Event("input"));
    }
  }

  key(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.close();
      this.reader.run();
    } else if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      this.complete(true);
    } else if (!this.list.hidden) {
      this.keyInList(event);
    }
  }

  keyInList(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const count = this.offered.length;
      this.point((this.pointed + (event.key === "ArrowDown" ? 1 : count - 1)) % count);
    } else if (event.key === "Tab" || event.key === "Enter") {
      event.preventDefault();
      this.accept(this.offered[this.pointed]);
    } else if (event.key === "Escape") {
      event.stopPropagation();
      this.close();
    }
  }

  close() {
    this.list.hidden = true;
    this.area.removeAttribute("aria-activedescendant");
  }

  point(at) {
    this.pointed = at;
    [...this.list.children].forEach((line, place) => line.setAttribute("aria-selected", String(place === at)));
    this.list.children[at]?.scrollIntoView({ block: "nearest" });
    this.area.setAttribute("aria-activedescendant", `completion-${at}`);
  }

  complete(asked) {
    const end = this.area.selectionStart;
    const before = this.text.slice(0, end);
    const [, owner, typed] = /(?:([A-Za-z_][\w.]*)\.)?([A-Za-z_]\w*)?$/.exec(before);
    const last = tokens(before).at(-1);
    const inText = last && ["string", "comment", "number", "variable"].includes(last.kind);
    if (inText || (!asked && !typed && !owner)) return this.close();
    this.typed = typed ?? "";
    this.offered = this.offers(owner, this.typed).slice(0, MOST_OFFERED);
    if (!this.offered.length || (this.offered.length === 1 && this.offered[0].text === this.typed)) return this.close();
    this.list.replaceChildren(
      ...this.offered.map((offer, at) =>
        element("li", { id: `completion-${at}`, role: "option", onmousedown: (event) => (event.preventDefault(), this.accept(offer)) }, element("span", {}, offer.text), element("em", {}, offer.note)),
      ),
    );
    this.list.hidden = false;
    this.place(before);
    this.point(0);
  }

  /** What may stand here, the likeliest first. */
  offers(owner, typed) {
    const { tables, functions } = this.catalog;
    const used = new Set(tokens(this.text).filter((one) => one.kind === "word").map((one) => one.text.toLowerCase()));
    const aliases = new Map([...this.text.matchAll(/\b(?:from|join)\s+(?:\w+\.)?(\w+)(?:\s+(?:as\s+)?(\w+))?/gi)].map((match) => [match[2]?.toLowerCase(), match[1].toLowerCase()]));
    const found = [];
    const offer = (text, note, rank) => found.push({ text, note, rank });
    if (owner) {
      const name = owner.split(".").at(-1).toLowerCase();
      const table = tables.get(name) ?? tables.get(aliases.get(name));
      if (table) for (const column of table.columns) offer(column.name, column.type, 0);
      else if (name === "lake" || name === "live") for (const one of tables.values()) offer(one.name, name === "lake" ? "what is in the lake" : "what is not yet", 0);
    } else {
      for (const table of tables.values()) {
        offer(table.name, "table", /\b(from|join)\s+\w*$/i.test(this.text.slice(0, this.area.selectionStart)) ? 0 : 3);
        const rank = used.has(table.name.toLowerCase()) ? 1 : 6;
        for (const column of table.columns) offer(column.name, `${column.type.toLowerCase()} · ${table.name}`, rank);
      }
      for (const keyword of keywords) offer(keyword, "", 4);
      for (const name of functions) offer(name, "function", 5);
    }
    const wanted = typed.toLowerCase();
    const seen = new Set();
    return found
      .filter((one) => one.text.toLowerCase().startsWith(wanted) || (wanted.length > 2 && one.text.toLowerCase().includes(wanted)))
      .sort((a, b) => startsFirst(a, b, wanted) || a.rank - b.rank || a.text.localeCompare(b.text))
      .filter((one) => !seen.has(one.text) && seen.add(one.text));
  }

  accept(offer) {
    const end = this.area.selectionStart;
    this.area.focus();
    this.area.setSelectionRange(end - this.typed.length, end);
    const plain = /^[a-z_][a-z0-9_]*$/.test(offer.text) || offer.note === "";
    this.insert(offer.note === "function" ? `${offer.text}(` : plain ? offer.text : `"${offer.text}"`);
    this.close();
  }

  /** The list below the word that is typed. */
  place(before) {
    const lines = before.split("\n");
    const style = getComputedStyle(this.area);
    const line = parseFloat(style.lineHeight);
    this.ruler ??= element("span", { class: "ruler", "aria-hidden": "true" }, "m".repeat(50));
    this.list.parentElement.append(this.ruler);
    const width = this.ruler.getBoundingClientRect().width / 50;
    this.ruler.remove();
    const left = parseFloat(style.paddingLeft) + (lines.at(-1).length - this.typed.length) * width - this.area.scrollLeft;
    const most = this.area.clientWidth - Math.min(this.list.offsetWidth, this.area.clientWidth);
    this.list.style.left = `${Math.max(0, Math.min(left, most))}px`;
    this.list.style.top = `${parseFloat(style.paddingTop) + lines.length * line - this.area.scrollTop + 2}px`;
  }
}

function startsFirst(a, b, wanted) {
  return Number(!a.text.toLowerCase().startsWith(wanted)) - Number(!b.text.toLowerCase().startsWith(wanted));
}
