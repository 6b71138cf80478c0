// What happened between two snapshots that a person would want to hear of.

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
    ...failures(before.tickets, after.tickets),
  ];
}

/** Tickets may end all the time; that is not worth a word, failing is. */
function failures(before, after) {
  const failed = states(before, after, (row) => row.state, (row) => row.state, (row) => row.id)
    .filter((state) => state === "failed").length;
  return failed ? [failed === 1 ? "A ticket failed." : `${failed} tickets failed.`] : [];
}

function states(before, after, sentence, state = (row) => row.state, name = (row) => row.name) {
  if (!before?.found || !after?.found) return [];
  const known = new Map(before.found.map((row) => [name(row), state(row)]));
  return after.found.filter((row) => known.has(name(row)) && known.get(name(row)) !== state(row)).map(sentence);
}
