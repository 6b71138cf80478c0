"""What a model thinks before it speaks, told apart from what it says."""

from collections.abc import Sequence
from dataclasses import dataclass

from narthex_server.text.stop import partial_suffix

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning."""

    text: str


class ReasoningSplitter:
    """Splits a turn that may start with `<think>…</think>`; `inside` says that the prompt has opened it already."""

    def __init__(self, inside: bool = False) -> None:
        self._state = "inside" if inside else "before"
        self._held = ""
        self._trim = inside  # drop the line breaks around the marks

    def feed(self, text: str) -> Sequence[str | Thought]:
        """What became certain: text, or Thought."""
        self._held += text
        pieces: list[str | Thought] = []
        if self._state == "before":
            self._before()
        if self._state == "inside":
            self._inside(pieces)
        if self._state == "after":
            self._after(pieces)
        return pieces

    def finish(self) -> Sequence[str | Thought]:
        """What was held back, at the end of the turn."""
        held, self._held = self._held, ""
        if not held:
            return []
        return [Thought(held)] if self._state == "inside" else [held]

    def _before(self) -> None:
        rest = self._held.lstrip()
        if rest.startswith(OPEN):
            self._state, self._trim, self._held = "inside", True, rest[len(OPEN) :]
        elif not OPEN.startswith(rest):
            self._state = "after"

    def _inside(self, pieces: list[str | Thought]) -> None:
        end = self._held.find(CLOSE)
        keep = partial_suffix(self._held, CLOSE)
        sure = self._held[:end] if end >= 0 else self._held[: len(self._held) - keep]
        sure = sure.rstrip("\n")
        shown = sure.lstrip("\n") if self._trim else sure
        if shown:
            pieces.append(Thought(shown))
        if end >= 0:
            self._state, self._trim, self._held = "after", True, self._held[end + len(CLOSE) :]
        else:
            self._held = self._held[len(sure) :]
            self._trim = self._trim and not shown

    def _after(self, pieces: list[str | Thought]) -> None:
        text = self._held.lstrip("\n") if self._trim else self._held
        self._held = ""
        if text:
            self._trim = False
            pieces.append(text)
