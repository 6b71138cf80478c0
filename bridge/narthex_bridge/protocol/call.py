"""One running tools/call: tool events in, JSON-RPC messages out."""

import math
from dataclasses import dataclass, field

from orjson import Fragment, dumps

from narthex_bridge.protocol import jsonrpc, results
from narthex_bridge.protocol.eras import Era
from narthex_bridge.protocol.events import Log, Progress, Result, TextDelta, ToolEvent
from narthex_bridge.protocol.failures import INVALID_TOOL_ARGUMENTS, BackendError, explanation
from narthex_bridge.protocol.jsonrpc import Id
from narthex_bridge.protocol.methods import LOG_LEVELS

_EXACT = 2.0**53
MOST_HELD = 4096


@dataclass(slots=True)
class ToolCall:
    """The state of one call: which notifications its client wants, and the progress that was told last.

    `token` None means no progress notifications; `log_level` None means no log messages.
    """

    id: Id
    era: Era
    token: Id | None
    log_level: str | None
    _told: float | None = field(default=None, init=False)
    _held: str = field(default="", init=False)

    def notify(self, event: ToolEvent, *, lagging: bool = False) -> bytes | None:
        """The notification for an event, or None where the client gets none.

        Text for a client that is `lagging` is held back, up to a bound, and comes with the next text, or with `rest`.
        """
        match event:
            case TextDelta(text) if text and self.token is not None:
                self._held += text
                return None if lagging and len(self._held) < MOST_HELD else self.rest()
            case Progress(progress, total, message) if self.token is not None:
                return self._progress(progress, total, message)
            case Log(level, logger, data) if self._wants(level):
                params = {"level": level, "data": Fragment(data)} | ({"logger": logger} if logger else {})
                return jsonrpc.notification("notifications/message", params)
        return None

    def rest(self) -> bytes | None:
        """The notification for text that was held back, if there is any."""
        if not self._held:
            return None
        text, self._held = self._held, ""
        return self._progress(1.0 if self._told is None else self._told, None, text)

    def result(self, result: Result) -> bytes:
        """The response."""
        return jsonrpc.result(self.id, results.called(self.era, result))

    def recover(self, failure: BackendError) -> bytes | None:
        """The response to arguments that do not fit, where the era makes it a result, for the model (SEP-1303)."""
        if not self.era.argument_errors_are_results or failure.reason != INVALID_TOOL_ARGUMENTS:
            return None
        return self.failed(explanation(failure))

    def failed(self, text: str) -> bytes:
        """The response that tells the model why there is no result."""
        return self.result(Result(dumps([{"type": "text", "text": text}]), b"", is_error=True))

    def _wants(self, level: str) -> bool:
        if self.log_level is None or level not in LOG_LEVELS:
            return False
        return LOG_LEVELS.index(level) >= LOG_LEVELS.index(self.log_level)

    def _progress(self, progress: float, total: float | None, message: str) -> bytes | None:
        # Progress must increase with every notification, also where a tool repeats itself, or mixes its own progress
        # with text deltas, which have none.
        if self._told is not None and not progress > self._told:
            step = math.nextafter(self._told, math.inf)
            progress = max(self._told + 1, step) if total is None else step
        if not math.isfinite(progress):
            return None  # no JSON, or no number is larger than the last one
        self._told = progress
        params: dict[str, object] = {"progressToken": self.token, "progress": _number(progress)}
        if total is not None and math.isfinite(total):
            params["total"] = _number(total)
        if message:
            params["message"] = message
        return jsonrpc.notification("notifications/progress", params)


def _number(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < _EXACT else value
