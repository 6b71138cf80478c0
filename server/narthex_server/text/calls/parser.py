"""What a parser of tool calls is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.lark import TEXT, Spelling, until
from narthex_server.text.messages import ToolCall


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call that is being written; a ToolCall with this id follows if it becomes one."""

    id: str
    name: str


Piece = str | CallBegun | ToolCall


class CallParser(Protocol):
    """Finds tool calls in one assistant's turn while it is written.

    Text comes out as it is, or as part of a ToolCall; what looks like a call but is not one is text. CallBegun comes
    before those calls whose name is known early.
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

    `markers` are strings that must reach the parser even where they are special tokens. `lark` gives a grammar's rules
    `calls`, one or more calls of these tools, and `turn`, text and such calls. `write` is there where templates leave
    the calls of earlier turns out: it gives them as the model wrote them.
    """

    name: str
    markers: tuple[str, ...]
    parser: Callable[[], CallParser]
    lark: Callable[[Sequence[ToolRule], Spelling], str]
    write: Callable[[Sequence[ToolCall]], str] | None = None


def marked(mark: str, body: str, spelling: Spelling, between: str = "") -> str:
    """Rules `calls` and `turn` for calls that are `mark` and then `body`; `between` divides several of them.

    Without `between` a body holds all calls of a turn.
    """
    opened = f"{spelling.mark(mark)} {body}"
    calls = f"{opened} ({between} {opened})*" if between else opened
    return f"calls: {calls}\nturn: (begun {body})* RAW\nRAW: {TEXT}\n{until(mark, 'begun', spelling)}"
