// A conversation with a model, over the same API that programs use.

import { announce } from "./announcer.js";
import { byId, el, say } from "./dom.js";
import { events, refusal } from "./events.js";
import { count, duration } from "./format.js";
import { key } from "./key.js";

const COMPLETIONS = new URL("../v1/chat/completions", import.meta.url);
const READY = new Set(["ready", "idle"]);
const MOST_SPOKEN = 500;
const LOST = "The connection was lost.";

class Refused extends Error {}

export class Chat {
  #messages = [];
  #running = null;

  constructor() {
    this.model = byId("chat-model");
    this.log = byId("chat-log");
    this.text = byId("chat-text");
    this.send = byId("chat-send");
    this.stop = byId("chat-stop");
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#ask();
    });
    this.stop.addEventListener("click", () => this.#running?.abort());
    byId("chat-new").addEventListener("click", () => this.clear());
  }

  /** Offers the models that chat; the choice stays where it can. */
  show(models) {
    const names = (models ?? []).filter((row) => row.capabilities.includes("chat") && READY.has(row.state))
      .map((row) => row.name);
    const shown = Array.from(this.model.options, (option) => option.value);
    if (JSON.stringify(names) !== JSON.stringify(shown)) {
      const chosen = this.model.value;
      this.model.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
      if (names.includes(chosen)) this.model.value = chosen;
    }
    this.model.disabled = !names.length;
    this.send.disabled = !names.length;
  }

  clear() {
    this.#running?.abort();
    this.#messages = [];
    this.log.replaceChildren();
    this.text.focus();
  }

  async #ask() {
    const content = this.text.value.trim();
    if (!content || this.#running || !this.model.value) return;
    this.text.value = "";
    this.#turn("You", content, "turn mine");
    this.#messages.push({ role: "user", content });
    const running = this.#running = new AbortController();
    const asked = this.#messages;
    this.#busy(true);
    const answer = this.#turn(this.model.value, "", "turn");
    try {
      await this.#stream(asked, answer, running.signal);
    } catch (error) {
      answer.note(running.signal.aborted ? "Stopped." : error instanceof Refused ? error.message : LOST);
    } finally {
      if (answer.content) asked.push({ role: "assistant", content: answer.content });
      else asked.pop(); // templates want both sides in turn
      this.#running = null;
      this.#busy(false);
      announce(`${answer.content.slice(0, MOST_SPOKEN) || "No text."} ${answer.noted}`);
    }
  }

  async #stream(messages, answer, signal) {
    const begun = performance.now();
    const body = { model: this.model.value, messages, stream: true, stream_options: { include_usage: true } };
    const response = await fetch(COMPLETIONS, {
      method: "POST", signal, body: JSON.stringify(body),
      headers: { "content-type": "application/json", ...key.headers },
    });
    if (!response.ok) throw new Refused(await refusal(response));
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(chunk.error.message);
      const delta = chunk.choices[0]?.delta ?? {};
      if (delta.reasoning_content) answer.think(delta.reasoning_content);
      if (delta.content) answer.add(delta.content);
      if (chunk.usage) {
        const seconds = (performance.now() - begun) / 1000;
        answer.note(`${count(chunk.usage.completion_tokens)} tokens in ${duration(seconds)}`);
      }
      this.#follow();
    }
  }

  #turn(name, content, kind) {
    const turn = new Turn(name, content, kind);
    this.log.append(turn.element);
    this.log.scrollTop = this.log.scrollHeight;
    return turn;
  }

  /** Keeps the end in sight for those who have it there. */
  #follow() {
    const left = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight;
    if (left < 80) this.log.scrollTop = this.log.scrollHeight;
  }

  #busy(running) {
    const [from, to] = running ? [this.send, this.stop] : [this.stop, this.send];
    const focused = document.activeElement === from;
    from.hidden = true;
    to.hidden = false;
    if (focused) (running ? to : this.text).focus();
    this.log.setAttribute("aria-busy", String(running));
  }
}

/** What one side says. */
class Turn {
  content = "";
  noted = "";

  constructor(name, content, kind) {
    this.said = el("p", { class: "said" });
    this.thoughts = el("details", {}, el("summary", {}, "Thoughts"), el("p", { class: "said" }));
    this.thoughts.hidden = true;
    this.noteline = el("p", { class: "small" });
    this.element = el("article", { class: kind },
      el("h3", {}, name), this.thoughts, this.said, this.noteline);
    this.add(content);
  }

  add(text) {
    this.content += text;
    this.said.append(text);
  }

  think(text) {
    this.thoughts.hidden = false;
    this.thoughts.lastChild.append(text);
  }

  note(text) {
    this.noted = text;
    say(this.noteline, text);
  }
}
