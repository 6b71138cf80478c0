"""Stop strings over streamed text."""

from collections.abc import Sequence


class StopStrings:
    """Finds the first of `stops` that is complete, however the text is cut into pieces.

    Holds back only text that may still become a stop string. `matched` is the one that ended the text; `include` leaves
    it in.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str, may_end: bool = True) -> str:
        """The text that can be shown now; nothing any more once `matched` is set.

        Unless it `may_end`, a stop string that is complete with this text is none.
        """
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        held, text = len(self._held), self._held + text
        # The stop string that ends first wins, the longer of two that end together. One that ends in what was held
        # back has been passed over.
        ends = [
            (at + len(stop), at, stop)
            for stop in self._stops
            if (at := text.find(stop, max(held - len(stop) + 1, 0))) >= 0
        ]
        if ends and may_end:
            end, start, self.matched = min(ends)
            self._held = ""
            return text[: end if self._include else start]
        keep = max(partial_suffix(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held


def partial_suffix(text: str, marker: str) -> int:
    """How many characters at the end of `text` may be the beginning of `marker`, which is not complete in it."""
    longest = min(len(text), len(marker) - 1)
    return next((size for size in range(longest, 0, -1) if marker.startswith(text[-size:])), 0)
