// The stream of snapshots, for as long as somebody looks.

import { events, refusal } from "./events.js";
import { key } from "./key.js";

const STATUS = new URL("status", import.meta.url);
const SILENCE_MS = 60_000; // the bridge gives a sign of life every 15 seconds
const SLOWEST_MS = 10_000;

/**
 * Follows until the bridge wants another key. `told` gets each snapshot, `connected` whether there is a connection,
 * `refused` why there is none for this key.
 */
export async function follow({ told, connected, refused }) {
  let pause = 1000;
  for (;;) {
    await seen();
    const ending = new AbortController();
    const stop = () => document.hidden && ending.abort();
    document.addEventListener("visibilitychange", stop);
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => ending.abort(), SILENCE_MS);
    };
    try {
      alive();
      const response = await fetch(STATUS, { headers: key.headers, signal: ending.signal, cache: "no-store" });
      if (response.status === 401 || response.status === 403) return refused(await refusal(response));
      if (!response.ok) throw new Error(await refusal(response));
      connected(true);
      for await (const data of events(response, alive)) {
        pause = 1000;
        told(JSON.parse(data));
      }
      pause = 250; // the bridge ends each stream after a while, to see the key again
    } catch {
      if (!document.hidden) connected(false);
    } finally {
      clearTimeout(watchdog);
      document.removeEventListener("visibilitychange", stop);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, SLOWEST_MS);
  }
}

/** When the page can be seen. */
function seen() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}
