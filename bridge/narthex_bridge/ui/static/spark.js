// The last two minutes of a number, as a line.

import { svg } from "./dom.js";

const SECONDS = 120;
const HEIGHT = 24;

export class Spark {
  #values = [];

  constructor() {
    this.line = svg("polyline", { class: "line" });
    this.area = svg("polygon", { class: "area" });
    this.element = svg("svg", {
      viewBox: `0 0 ${SECONDS - 1} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", class: "spark",
    }, this.area, this.line);
  }

  /** Once a second; `most` is what the line's top means at least. */
  add(value, most) {
    this.#values.push(value);
    if (this.#values.length > SECONDS) this.#values.shift();
    const top = Math.max(most, ...this.#values) || 1;
    const first = SECONDS - this.#values.length;
    const points = this.#values.map((value, index) =>
      `${first + index},${(HEIGHT - 1.5 - (value / top) * (HEIGHT - 3)).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
    this.area.setAttribute("points", `${first},${HEIGHT} ${points.join(" ")} ${SECONDS - 1},${HEIGHT}`);
  }
}
