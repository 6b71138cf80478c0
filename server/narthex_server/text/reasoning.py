"""What a model thinks before it speaks, told apart from what it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from narthex_server.text import lark
from narthex_server.text.lark import Spelling
from narthex_server.text.stop import partial_suffix


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning."""

    text: str


class Splitter(Protocol):
    """Tells the thoughts of one turn from its text."""

    def feed(self, text: str) -> Sequence[str | Thought]:
        """What became certain: text, or Thought."""
        ...

    def finish(self) -> Sequence[str | Thought]:
        """What was held back, at the end of the turn."""
        ...


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How a family of models thinks: between `open`, in pieces that are tokens or text, and `close`.

    With `channels` every part of a turn has a header that names its channel (Harmony): `open` is that of thoughts.
    """

    open: tuple[str, ...]
    close: str
    channels: bool = False

    @property
    def opening(self) -> str:
        return "".join(self.open)

    @property
    def marks(self) -> tuple[str, ...]:
        """Strings that must reach the splitter even where they are special tokens."""
        return (*self.open, self.close, *((_START, _CHANNEL, _MESSAGE) if self.channels else ()))

    def splitter(self, inside: bool) -> Splitter:
        """For one turn; `inside` says that the prompt has opened its thoughts already."""
        return ChannelSplitter() if self.channels else ReasoningSplitter(self.opening, self.close, inside)

    def begun(self, prompt: str) -> bool:
        """Whether a prompt ends with thoughts opened."""
        return prompt.rstrip().endswith(self.opening.rstrip())

    def over(self, prompt: str) -> bool:
        """Whether a prompt ends with thoughts closed, so that the turn is all text."""
        return not self.channels and prompt.rstrip().endswith(self.close)

    def lark(self, prompt: str, spelling: Spelling) -> str:
        """Rules for a turn after `prompt`: `start` is thoughts, where there may be some, and then `said`."""
        if self.over(prompt):
            return "start: said"
        ends = lark.until(self.close, "thought", spelling)
        opened = " ".join(spelling.mark(piece) for piece in self.open)
        if self.channels:
            start, channel, message = (spelling.mark(mark) for mark in (_START, _CHANNEL, _MESSAGE))
            return f'start: ({opened} thought {start} "assistant")? {channel} "final" {message} said\n{ends}'
        before = "thought BREAKS" if self.begun(prompt) else f"({opened} thought BREAKS)?"
        return f"start: {before} said\nBREAKS: /\\n{{0,3}}/\n{ends}"


_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_ANALYSIS = "analysis"
THINK = Reasoning(("<think>",), "</think>")
HARMONY = Reasoning((_CHANNEL, _ANALYSIS, _MESSAGE), "<|end|>", channels=True)
_SIGNS = (
    (_CHANNEL, HARMONY),
    ("<channel|>", Reasoning(("<|channel>", "thought"), "<channel|>")),  # Gemma 4
    ("<unused95>", Reasoning(("<unused94>", "thought"), "<unused95>")),  # MedGemma
    ("[/THINK]", Reasoning(("[THINK]",), "[/THINK]")),  # Magistral
    ("</seed:think>", Reasoning(("<seed:think>",), "</seed:think>")),  # Seed-OSS
    ("</think>", THINK),
)


def detect(template: str) -> Reasoning | None:
    """How the model thinks that a chat template was written for, None if it does not."""
    return next((reasoning for sign, reasoning in _SIGNS if sign in template), None)


class ReasoningSplitter:
    """Splits a turn that may start with thoughts between two marks; line breaks around the marks are dropped."""

    def __init__(self, opening: str = THINK.opening, close: str = THINK.close, inside: bool = False) -> None:
        self._opening = opening
        self._close = close
        self._state = "inside" if inside else "before"
        self._held = ""
        self._trim = inside  # drop the line breaks around the marks

    def feed(self, text: str) -> Sequence[str | Thought]:
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
        held, self._held = self._held, ""
        if not held:
            return []
        return [Thought(held)] if self._state == "inside" else [held]

    def _before(self) -> None:
        rest = self._held.lstrip()
        if rest.startswith(self._opening):
            self._state, self._trim, self._held = "inside", True, rest[len(self._opening) :]
        elif not self._opening.startswith(rest):
            self._state = "after"

    def _inside(self, pieces: list[str | Thought]) -> None:
        end = self._held.find(self._close)
        keep = partial_suffix(self._held, self._close)
        sure = self._held[:end] if end >= 0 else self._held[: len(self._held) - keep]
        sure = sure.rstrip("\n")
        shown = sure.lstrip("\n") if self._trim else sure
        if shown:
            pieces.append(Thought(shown))
        if end >= 0:
            self._state, self._trim, self._held = "after", True, self._held[end + len(self._close) :]
        else:
            self._held = self._held[len(sure) :]
            self._trim = self._trim and not shown

    def _after(self, pieces: list[str | Thought]) -> None:
        text = self._held.lstrip("\n") if self._trim else self._held
        self._held = ""
        if text:
            self._trim = False
            pieces.append(text)


class ChannelSplitter:
    """Splits a turn in Harmony's form: what is in the channel `analysis` is thought, all else is said.

    The marks are special tokens, so nothing that the model quotes can contain them.
    """

    def __init__(self) -> None:
        self._held = ""
        self._header: str | None = None  # of a part, while it is written
        self._thinks = False

    def feed(self, text: str) -> Sequence[str | Thought]:
        self._held += text
        pieces: list[str | Thought] = []
        while self._held:
            mark, at = self._next_mark()
            before = self._held[:at]
            if self._header is not None:
                self._header += before
            elif before:
                pieces.append(Thought(before) if self._thinks else before)
            self._held = self._held[at + len(mark) :]
            if not mark:
                break
            if mark == _MESSAGE:
                self._thinks, self._header = _ANALYSIS in (self._header or ""), None
            else:
                self._header, self._thinks = ("" if mark in (_START, _CHANNEL) else None), False
        return pieces

    def finish(self) -> Sequence[str | Thought]:
        held, self._held = self._held, ""
        if not held or self._header is not None:
            return []
        return [Thought(held)] if self._thinks else [held]

    def _next_mark(self) -> tuple[str, int]:
        """The first mark and where it is; an empty one and where text that may become one begins."""
        marks = (_START, _CHANNEL, _MESSAGE, HARMONY.close)
        found = [(at, mark) for mark in marks if (at := self._held.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            return mark, at
        return "", len(self._held) - max(partial_suffix(self._held, mark) for mark in marks)
