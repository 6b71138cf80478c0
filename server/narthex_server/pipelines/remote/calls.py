"""Tool calls, put together from what a remote engine streams of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from narthex_server.pipelines.events import ToolCallStarted
from narthex_server.text.calls.json_text import members, new_id
from narthex_server.text.messages import ToolCall

MOST_CALLS = 128
MOST_CHARACTERS = 16 * 1024 * 1024


class TooMuch(Exception):
    """More calls, or longer ones, than any honest answer has."""


@dataclass(slots=True)
class _Call:
    id: str
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    told: bool = False

    @property
    def arguments(self) -> str:
        return "".join(self.pieces).strip() or "{}"


class CallAssembler:
    """Pieces of calls in, calls out; tells once that one of the `tools` is being called.

    Pieces belong together by their index. Engines that give none send one call after the other, or each whole.
    """

    def __init__(self, tools: frozenset[str]) -> None:
        self._tools = tools
        self._calls: dict[int, _Call] = {}
        self._ids: dict[str, int] = {}
        self._last = -1
        self._size = 0

    def feed(self, pieces: Sequence[Any]) -> list[ToolCallStarted]:
        """Errors: TooMuch."""
        told = []
        for piece in pieces:
            if isinstance(piece, Mapping):
                function = piece.get("function")
                told += self._piece(piece, function if isinstance(function, Mapping) else {})
        return told

    def finish(self, whole: bool) -> list[ToolCallStarted | ToolCall]:
        """All calls; where the answer was cut off (not `whole`), only those that were written to their end."""
        found: list[ToolCallStarted | ToolCall] = []
        for call in self._calls.values():
            if call.name and (whole or members(call.arguments) is not None):
                found += self._begun(call)
                found.append(ToolCall(call.id, call.name, call.arguments))
        return found

    def _piece(self, piece: Mapping[str, Any], function: Mapping[str, Any]) -> list[ToolCallStarted]:
        given_id, name = _text(piece.get("id")), _text(function.get("name"))
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode() if arguments else ""
        call = self._find(piece.get("index"), given_id, name)
        if name and name != call.name:  # some repeat the whole name in every piece
            call.name += name
        call.pieces.append(text)
        self._size += len(text) + len(name)
        if self._size > MOST_CHARACTERS:
            raise TooMuch("tool calls that do not end")
        return self._begun(call) if text else []

    def _find(self, index: Any, given_id: str, name: str) -> _Call:
        if type(index) is not int:
            index = self._guess(given_id, name)
        if index not in self._calls:
            if len(self._calls) >= MOST_CALLS:
                raise TooMuch(f"more than {MOST_CALLS} tool calls")
            # An id that is missing, or not of this call alone, could not be answered.
            self._calls[index] = _Call(given_id if given_id and given_id not in self._ids else new_id())
            self._ids.setdefault(given_id, index)
        self._last = index
        return self._calls[index]

    def _guess(self, given_id: str, name: str) -> int:
        """The index of a piece without one."""
        fresh = max(self._calls, default=-1) + 1
        if given_id:
            return self._ids.get(given_id, fresh)
        last = self._calls.get(self._last)
        if last is None or (name and last.pieces and members(last.arguments) is not None):
            return fresh
        return self._last

    def _begun(self, call: _Call) -> list[ToolCallStarted]:
        if call.told or call.name not in self._tools:
            return []
        call.told = True
        return [ToolCallStarted(call.id, call.name)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
