"""What a parser of tool calls is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from narthex_server.text.messages import ToolCall

Piece = str | ToolCall


class CallParser(Protocol):
    """Finds tool calls in one assistant's turn while it is written.

    Text comes out as it is, or as part of a ToolCall; what looks like a call but is not one is text.
    """

    def feed(self, text: str) -> Sequence[Piece]:
        """What became certain; text that may still become a call waits."""
        ...

    def finish(self) -> Sequence[Piece]:
        """What was held back, at the end of the turn."""
        ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a family of models writes calls.

    `markers` are strings that must reach the parser even where they are special tokens. `opening` is what a turn starts
    with that calls the named tool, or any tool for an empty name. `write` is there where templates leave the calls of
    earlier turns out: it gives them as the model wrote them.
    """

    name: str
    markers: tuple[str, ...]
    parser: Callable[[], CallParser]
    opening: Callable[[str], str]
    write: Callable[[Sequence[ToolCall]], str] | None = None
