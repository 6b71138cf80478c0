// What the tables show of a snapshot.

import { byId, say } from "./dom.js";
import { ago, amount, bytes, count, duration, lapse, NONE, percent } from "./format.js";
import { meter, small, state, Table } from "./table.js";

const TONES = {
  ready: "ok", running: "ok", done: "ok", closed: "ok",
  loading: "busy", unloading: "busy", connecting: "busy", waiting: "busy", half_open: "busy", input_required: "busy",
  failed: "bad", unhealthy: "bad", open: "bad",
};
const LEVELS = ["critical", "high", "normal", "low"];

const UNITS = { kv_tokens: "KV tokens" };

const word = (text) => state(TONES[text] ?? "idle", text.replace("_", " "));
const listed = (...texts) => texts.filter(Boolean).join(" · ");

/** All tables, made once; what they show of time is as of `now`, in seconds. */
export class Tables {
  #now = 0;
  #engines = {};

  constructor() {
    const since = (time) => (time === null ? NONE : ago(this.#now - time));
    const engine = (row) => this.#engines[row.name];
    this.models = new Table(byId("models-table"), "models-title", [
      { title: "Model", cell: (row) => [row.name, small(listed(row.architecture, row.compute, row.device))] },
      { title: "State", cell: (row) => [word(row.state), ...(row.failure ? [small(row.failure)] : [])] },
      { title: "Slots", cell: (row) => {
        const found = engine(row);
        const slots = found?.slots || row.slots;
        if (!found) return slots || NONE;
        return meter(found.running, slots, `${found.running} / ${slots}`, `Slots of ${row.name}`);
      } },
      { title: "Waiting", number: true, cell: (row) => (engine(row) ? count(engine(row).waiting) : NONE) },
      { title: "KV memory", cell: (row) => {
        const found = engine(row);
        return found ? meter(found.kv, 1, percent(found.kv), `KV memory of ${row.name}`) : NONE;
      } },
      { title: "Context", number: true, cell: (row) => (row.context ? count(row.context) : NONE) },
    ], (row) => row.name, "No model is served.");

    this.pools = new Table(byId("pools-table"), "pools-title", [
      { title: "Pool", cell: (row) => row.name },
      { title: "State", cell: (row) => state(row.draining ? "busy" : "ok", row.draining ? "draining" : "admits") },
      { title: "Running", number: true, cell: (row) => count(row.running) },
      { title: "Used", cell: (row) => row.resources.map(({ name, used, capacity }) => {
        const unit = UNITS[name] ?? name.replace("_", " ");
        return meter(used, capacity, `${amount(name, used)} / ${amount(name, capacity)} ${unit}`, `${unit} of ${row.name}`);
      }) },
      { title: "Waiting", cell: (row) => {
        const levels = LEVELS.filter((level) => row.waiting[level]);
        return levels.length ? levels.map((level) => `${count(row.waiting[level])}\u00a0${level}`) : "0";
      } },
      { title: "Longest wait", number: true, cell: (row) => duration(row.longest_wait) },
    ], (row) => row.name, "No pool is open.");

    this.tickets = new Table(byId("tickets-table"), "tickets-title", [
      { title: "Ticket", cell: (row) => small(row.id) },
      { title: "State", cell: (row) => word(row.state) },
      { title: "Priority", cell: (row) => row.priority },
      { title: "Ahead", number: true, cell: (row) => (row.state === "waiting" ? count(row.ahead) : NONE) },
      { title: "Given", number: true, cell: (row) => since(row.submitted) },
      { title: "Waited", number: true, cell: (row) =>
        duration(Math.max(0, Math.floor(row.started ?? row.ended ?? this.#now) - Math.floor(row.submitted))) },
      { title: "Worked", number: true, cell: (row) =>
        (row.started === null ? NONE : duration(Math.max(0, (row.ended ?? Math.floor(this.#now)) - row.started))) },
    ], (row) => row.id, "You have no tickets.");

    this.upstreams = new Table(byId("upstreams-table"), "upstreams-title", [
      { title: "Upstream", cell: (row) => [row.name, small(listed(row.transport, `${row.server} ${row.version}`.trim()))] },
      { title: "State", cell: (row) =>
        [word(row.state), small(row.since === null ? "" : `for ${lapse(this.#now - row.since)}`)] },
      { title: "Breaker", cell: (row) => (row.breaker ? word(row.breaker) : NONE) },
      { title: "Tools", number: true, cell: (row) => count(row.tools) },
      { title: "Last success", number: true, cell: (row) =>
        (row.last_success === null ? "never" : since(row.last_success)) },
      { title: "Last error", cell: (row) => row.failure || NONE },
    ], (row) => row.name, "No upstream is configured.");

    this.locks = new Table(byId("locks-table"), "locks-title", [
      { title: "Lock", cell: (row) => row.name },
      { title: "Wait p99", number: true, cell: (row) => (row.wait_p99 === null ? NONE : duration(row.wait_p99)) },
      { title: "Contended", number: true, cell: (row) =>
        `${count(row.contended)}${row.contended ? ` (${percent(row.contended / row.acquisitions)})` : ""}` },
      { title: "Acquisitions", number: true, cell: (row) => count(row.acquisitions) },
      { title: "Waited", number: true, cell: (row) => duration(row.waited ?? 0) },
      { title: "Held on average", number: true, cell: (row) => duration(row.held_mean) },
    ], (row) => row.name, "This server does not meter its locks.");

    const share = (row) => meter(row.value, row.most, `${count(row.value)} / ${count(row.most)}`, row.name);
    this.bridge = new Table(byId("bridge-table"), "bridge-title", [
      { title: "This process has", cell: (row) => row.name },
      { title: "At the moment", cell: share },
    ], (row) => row.name, "");
  }

  show(status, now) {
    this.#now = now;
    this.#engines = status.occupancy?.found?.models ?? {};
    if (!status.lost) {
      for (const part of ["models", "pools", "tickets", "upstreams", "locks"]) this[part].show(status[part]);
      say(byId("tickets-sum"), summed(status.occupancy?.found));
    }
    const { sessions, max_sessions, mcp_calls, model_calls, max_calls } = status.bridge;
    this.bridge.show({ found: [
      { name: "MCP sessions", value: sessions, most: max_sessions },
      { name: "MCP calls", value: mcp_calls, most: max_calls },
      { name: "Requests for models", value: model_calls, most: max_calls },
    ] });
  }
}

function summed(found) {
  if (!found) return "";
  const kept = found.max_bytes ? `${bytes(found.bytes)} of ${bytes(found.max_bytes)}` : bytes(found.bytes);
  return `${count(found.open)} open · ${count(found.results)} results, ${kept}`;
}
