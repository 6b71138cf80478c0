// A table whose cells are drawn anew only where they say something else than before.

import { el } from "./dom.js";

const FULL = 0.9;

/** A cell with a bar: how much of how much. `label` says what it measures. */
export const meter = (value, max, text, label) => ({ value, max, text, label });
/** A cell, or a part of one, that is a word for a state. */
export const state = (tone, text) => ({ tone, text });
/** Text that matters less than the rest. */
export const small = (text) => ({ small: text });

export class Table {
  #rows = new Map();
  #drawn = new WeakMap();

  /** `columns`: title, cell(row), which gives text or the above, or a list of them; `number` where it is one. */
  constructor(place, label, columns, name, empty) {
    this.columns = columns;
    this.name = name;
    this.empty = empty;
    const head = columns.map(({ title, number }) =>
      el("th", { scope: "col", role: "columnheader", ...(number && { class: "number" }) }, title));
    this.body = el("tbody", { role: "rowgroup" });
    this.table = el("table", { role: "table", "aria-labelledby": label },
      el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...head)), this.body);
    this.note = el("p", { class: "note" });
    place.replaceChildren(this.table, this.note);
  }

  /** Shows a part of a snapshot: rows, that there are none, or why. */
  show(part) {
    const rows = part?.found ?? [];
    const note = part?.absent ? "Not offered by this server." : part?.failure ?? (rows.length ? "" : this.empty);
    this.note.hidden = !note;
    this.table.hidden = !rows.length;
    if (this.note.textContent !== note) this.note.textContent = note;
    const names = new Set(rows.map(this.name));
    for (const [name, row] of this.#rows) {
      if (!names.has(name)) {
        row.remove();
        this.#rows.delete(name);
      }
    }
    rows.forEach((row, place) => {
      const line = this.#line(this.name(row));
      if (this.body.children[place] !== line) this.body.insertBefore(line, this.body.children[place] ?? null);
      this.columns.forEach((column, index) => this.#draw(line.children[index], column.cell(row)));
    });
  }

  #line(name) {
    const known = this.#rows.get(name);
    if (known) return known;
    const cells = this.columns.map(({ title, number }, index) => {
      const more = { "data-title": title, ...(number && { class: "number" }) };
      return index ? el("td", { role: "cell", ...more }) : el("th", { scope: "row", role: "rowheader", ...more });
    });
    const line = el("tr", { role: "row" }, ...cells);
    this.#rows.set(name, line);
    return line;
  }

  #draw(cell, content) {
    const parts = Array.isArray(content) ? content : [content];
    const now = JSON.stringify(parts);
    if (this.#drawn.get(cell) === now) return;
    this.#drawn.set(cell, now);
    cell.replaceChildren(...parts.map(drawn));
  }
}

function drawn(part) {
  if (typeof part !== "object") return el("div", {}, String(part));
  if ("tone" in part) return el("div", {}, el("span", { class: "state", "data-tone": part.tone }, part.text));
  if ("small" in part) return el("div", { class: "small" }, part.small);
  return el("div", { class: "meter" }, bar(part), el("span", {}, part.text));
}

function bar({ value, max, text, label }) {
  const share = max ? Math.min(value / max, 1) : 0;
  const filled = el("div", share >= FULL ? { class: "full" } : {});
  filled.style.width = `${100 * share}%`;
  return el("div", {
    role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": max, "aria-valuenow": Math.min(value, max),
    "aria-valuetext": text,
  }, filled);
}
