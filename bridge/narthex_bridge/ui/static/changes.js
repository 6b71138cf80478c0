// What happened between two snapshots that a person would want to hear of.

const ENDED = new Set(["done", "failed", "cancelled"]);

/** A sentence for each change of a state. */
export function changes(before, after) {
  if (!before) return [];
  if (Boolean(before.lost) !== Boolean(after.lost)) {
    return [after.lost ? "The server cannot be reached." : "The server can be reached again."];
  }
  return [
    ...states(before.models, after.models, (row) => `Model ${row.name} is ${row.state}.`),
    ...states(before.upstreams, after.upstreams, (row) => `Upstream ${row.name} is ${row.state}.`),
    ...states(before.pools, after.pools, (row) => `Pool ${row.name} ${row.draining ? "is draining" : "admits again"}.`,
      (row) => row.draining),
    ...states(before.tickets, after.tickets, (row) => `A ticket is ${row.state}.`,
      (row) => ENDED.has(row.state), (row) => row.id),
  ];
}

function states(before, after, sentence, state = (row) => row.state, name = (row) => row.name) {
  if (!before?.found || !after?.found) return [];
  const known = new Map(before.found.map((row) => [name(row), state(row)]));
  return after.found.filter((row) => known.has(name(row)) && known.get(name(row)) !== state(row)).map(sentence);
}
