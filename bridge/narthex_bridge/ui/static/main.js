// The page: what comes from the bridge, and where it is shown.

import { announce } from "./announcer.js";
import { changes } from "./changes.js";
import { Chat } from "./chat.js";
import { byId, say, setState } from "./dom.js";
import { Figures } from "./figures.js";
import { follow } from "./follow.js";
import { key } from "./key.js";
import { Tables } from "./tables.js";

const figures = new Figures(byId("figures"));
const tables = new Tables();
const chat = new Chat();
let latest = null;
let ahead = 0; // of the bridge's clock, in seconds

function told({ time, status }) {
  ahead = time - Date.now() / 1000;
  changes(latest, status).forEach(announce);
  latest = status;
  show("shown");
  for (const element of document.querySelectorAll("[data-chat]")) element.hidden = !status.chat;
  byId("caller").hidden = !key.given;
  say(byId("caller-name"), `${status.caller.name} of ${status.caller.tenant}`);
  notice(status.lost ?? (status.bridge.draining ? "The bridge is shutting down." : ""));
  setState(byId("connection"), status.lost ? "bad" : "ok", status.lost ? "server lost" : "live");
  byId("status").classList.toggle("stale", Boolean(status.lost));
  figures.show(status);
  if (!status.lost) chat.show(status.models?.found);
  draw();
}

function connected(whether) {
  if (whether || byId("connection").dataset.tone === "bad") return;
  setState(byId("connection"), "bad", "connection lost");
  byId("status").classList.add("stale");
  announce("The connection to the bridge is lost; trying again.");
}

function refused(why) {
  show("login");
  byId("caller").hidden = true;
  notice(key.given ? why : "");
  key.forget();
  setState(byId("connection"), "idle", "needs a key");
  byId("key").focus();
}

/** Either the form for a key or all the rest. */
function show(part) {
  byId("login").hidden = part !== "login";
  byId("shown").hidden = byId("sections").hidden = part !== "shown";
}

function notice(text) {
  byId("notice").hidden = !text;
  say(byId("notice"), text);
}

function draw() {
  tables.show(latest, Date.now() / 1000 + ahead);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key.keep(byId("key").value.trim());
  byId("key").value = "";
  setState(byId("connection"), "idle", "connecting");
  follow({ told, connected, refused });
});

byId("forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});

setInterval(() => {
  if (latest === null || document.hidden || byId("shown").hidden) return;
  figures.tick(latest);
  draw();
}, 1000);

follow({ told, connected, refused });
