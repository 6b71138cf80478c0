// What changes, for screen readers: a few words now and then, never a flood.

import { byId } from "./dom.js";

const PAUSE_MS = 5000;
const MOST = 3;

let waiting = [];
let timer = null;

/** Says a sentence soon, with others that come meanwhile. */
export function announce(sentence) {
  waiting.push(sentence);
  timer ??= setTimeout(tell, 200);
}

function tell() {
  const more = waiting.length - MOST;
  byId("announcer").textContent = waiting.slice(0, MOST).join(" ") + (more > 0 ? ` And ${more} more changes.` : "");
  waiting = [];
  timer = setTimeout(() => {
    timer = null;
    if (waiting.length) tell();
  }, PAUSE_MS);
}
