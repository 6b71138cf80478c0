// The few numbers that say how it goes.

import { el, say } from "./dom.js";
import { count, duration, percent } from "./format.js";
import { Spark } from "./spark.js";

const sum = (values) => values.reduce((total, value) => total + value, 0);
const most = (values) => Math.max(0, ...values);
const engines = (status) => Object.values(status.occupancy?.found?.models ?? {});

/** Each: a title and what it is of a snapshot: [number for the line, its least top, text, more text]; null: unknown. */
const FIGURES = [
  ["Running", (status) => {
    const slots = sum(engines(status).map((one) => one.slots));
    const running = sum(engines(status).map((one) => one.running));
    return status.occupancy?.found ? [running, slots, count(running), `of ${count(slots)} slots`] : null;
  }],
  ["Waiting", (status) => {
    if (!status.occupancy?.found && !status.pools?.found) return null;
    const pools = sum((status.pools?.found ?? []).flatMap((pool) => Object.values(pool.waiting)));
    const waiting = Math.max(pools, sum(engines(status).map((one) => one.waiting)));
    return [waiting, 4, count(waiting), "for their turn"];
  }],
  ["KV memory", (status) => {
    const fullest = most(engines(status).map((one) => one.kv));
    return status.occupancy?.found ? [fullest, 1, percent(fullest), "fullest model"] : null;
  }],
  ["Open tickets", (status) => {
    const found = status.occupancy?.found;
    return found ? [found.open, 4, count(found.open), found.max_open ? `of ${count(found.max_open)}` : "yours"] : null;
  }],
  ["Upstreams", (status) => {
    const found = status.upstreams?.found?.filter((one) => one.state !== "disabled");
    if (!found) return null;
    const ready = found.filter((one) => one.state === "ready").length;
    return [ready, found.length, `${ready} / ${found.length}`, "ready"];
  }],
  ["Lock wait", (status) => {
    const found = status.locks?.found;
    if (!found?.length) return null;
    const worst = most(found.map((lock) => lock.wait_p99 ?? 0));
    return [worst, 1e-5, duration(worst), "worst p99"];
  }],
];

export class Figures {
  constructor(place) {
    this.shown = FIGURES.map(([title, of]) => {
      const value = el("span", { class: "value" });
      const more = el("span", { class: "more" });
      const spark = new Spark();
      const tile = el("div", {}, el("dt", {}, title), el("dd", {}, value, " ", more, spark.element));
      place.append(tile);
      return { tile, of, value, more, spark };
    });
  }

  show(status) {
    for (const { tile, of, value, more } of this.shown) {
      const found = of(status);
      tile.hidden = !found;
      if (!found) continue;
      say(value, found[2]);
      say(more, found[3]);
    }
  }

  /** Once a second: the lines go on, also while nothing changes. */
  tick(status) {
    for (const { of, spark } of this.shown) {
      const found = of(status);
      if (found) spark.add(found[0], found[1]);
    }
  }
}
