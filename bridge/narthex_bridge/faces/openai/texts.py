"""Prompts' continuations as they come: chunks of a text completion."""

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.openai.chunks import DONE
from narthex_bridge.faces.openai.face import error
from narthex_bridge.faces.openai.positions import Positions
from narthex_bridge.faces.openai.usage import add_usage, finish_reason, usage
from narthex_bridge.http.refusal import Refusal

Numbered = tuple[int, wire.GenerateStreamResponse]


class CompletionChunks:
    """Choice number `prompt · each + index`; per token only its text is written anew."""

    def __init__(self, id: str, each: int, prompts: int, scored_echo: bool, include_usage: bool) -> None:
        """With `scored_echo` every choice begins with its prompt, whose tokens' probabilities are told with it."""
        self._id = id
        self._each = each
        self._scored_echo = scored_echo
        self._include_usage = include_usage
        self._head = b""
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._prompts = [wire.PromptInfo()] * prompts
        self._spent = [common.Usage()] * prompts
        self._positions: dict[int, Positions] = {}

    def tell(self, events: Sequence[Numbered]) -> bytes:
        """Text that waits is told in one chunk: a reader that lags gets fewer and longer ones."""
        if len(events) == 1:
            return self._tell(*_kind(events[0]), [events[0][1]])
        return b"".join(
            [
                self._tell(kind, prompt, index, [event for _, event in group])
                for (kind, prompt, index), group in groupby(events, _kind)
            ]
        )

    def end(self) -> bytes:
        if not self._include_usage:
            return DONE
        spent = common.Usage()
        for one in self._spent:
            add_usage(spent, one)
        return b'%b],"usage":%b}\n\n%b' % (self._head, orjson.dumps(usage(spent)), DONE)

    def fail(self, refusal: Refusal) -> bytes:
        return b"data: %b\n\n" % orjson.dumps({"error": error(refusal)})

    def _tell(self, kind: str | None, prompt: int, index: int, events: Sequence[wire.GenerateStreamResponse]) -> bytes:
        """Of events of one kind for one completion."""
        choice = prompt * self._each + index
        if kind == "text_delta":
            deltas = [event.text_delta for event in events]
            if not self._scored_echo or choice in self._positions:
                return self._text(choice, deltas)
            echo = self._echo(choice, self._prompts[prompt], deltas[0].text)
            return echo + self._text(choice, deltas[1:]) if deltas[1:] else echo
        if kind == "started":
            self._start(prompt, events[0].started)
        if kind != "finished":
            return b""
        self._spent[prompt] = events[-1].finished.usage
        return self._chunk(choice, "", None, finish_reason(events[-1].finished))

    def _start(self, prompt: int, started: wire.Started) -> None:
        self._prompts[prompt] = started.prompt
        if not self._head:
            head = {"id": self._id, "object": "text_completion", "created": int(time.time()), "model": started.model}
            self._head = b'data: %b,"choices":[' % orjson.dumps(head)[:-1]

    def _echo(self, choice: int, prompt: wire.PromptInfo, text: str) -> bytes:
        positions = self._positions[choice] = Positions()
        return self._chunk(choice, text, positions.echo(prompt, text), None)

    def _text(self, choice: int, deltas: Sequence[common.TextDelta]) -> bytes:
        text = deltas[0].text if len(deltas) == 1 else "".join([delta.text for delta in deltas])
        if not deltas[0].logprobs and not deltas[0].token_ids:
            return b'%b{"index":%d,"text":%b,"logprobs":null,"finish_reason":null}%b' % (
                self._head, choice, orjson.dumps(text), self._tail,
            )  # fmt: skip
        found = [position for delta in deltas for position in delta.logprobs]
        logprobs = self._positions.setdefault(choice, Positions()).tell(found) if found else None
        return self._chunk(choice, text, logprobs, None, [token for delta in deltas for token in delta.token_ids])

    def _chunk(
        self,
        choice: int,
        text: str,
        logprobs: dict[str, Any] | None,
        reason: str | None,
        token_ids: Sequence[int] = (),
    ) -> bytes:
        told: dict[str, Any] = {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": reason}
        if token_ids:
            told["token_ids"] = token_ids
        return b"%b%b%b" % (self._head, orjson.dumps(told), self._tail)


def _kind(numbered: Numbered) -> tuple[str | None, int, int]:
    prompt, event = numbered
    return event.WhichOneof("event"), prompt, event.index
