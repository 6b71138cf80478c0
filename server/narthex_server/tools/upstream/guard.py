"""What stands before the calls of an upstream: counts those that run, and keeps them off one that only fails."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, time

from mcp.shared.exceptions import MCPError

from narthex_server.errors import DeadlineExceeded, Unavailable, UpstreamRefused
from narthex_server.tools.tool import CallContext, ToolEvent, ToolResult
from narthex_server.tools.upstream.breaker import Admission, Breaker

_INTERNAL_ERROR = "-32603"


class Passage:
    """One call on its way; what it sees of the upstream says how that is."""

    __slots__ = ("_admission", "answered", "good")

    def __init__(self, admission: Admission | None) -> None:
        self._admission = admission
        self.answered = False
        self.good: bool | None = True

    def saw(self, event: ToolEvent) -> None:
        """The last event of the call: whoever leaves with it has cancelled nothing."""
        self.answered = True
        if isinstance(event, ToolResult) and event.faulted:
            self.good = False

    def end(self) -> None:
        if self._admission is not None:
            self._admission.end(self.good)


class Guard:
    """The calls of one upstream; `breaker` is None where every call is to be tried."""

    def __init__(self, name: str, breaker: Breaker | None, clock: Callable[[], float] = monotonic) -> None:
        self._name = name
        self.breaker = breaker
        self._clock = clock
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._lost = -1  # the connection whose end was counted
        self._overdue = float("-inf")
        self._began = 0.0  # since when calls have been running without a pause
        self.last_success = 0.0

    @property
    def busy(self) -> bool:
        """Whether calls run, none of which was given up for its time since the last moment that none did."""
        return self._running > 0 and self._overdue < self._began

    async def idle(self) -> None:
        """Returns when no call runs."""
        await self._idle.wait()

    @contextmanager
    def around(self, connection: int, context: CallContext) -> Iterator[Passage]:
        """A call on the connection of this number; raises Unavailable when none is let through.

        Failures count that are the upstream's: a lost connection, once for all its calls; its own limit of time; what
        is no result; its internal errors.
        """
        passage = Passage(self._admitted())
        if not self._running:
            self._began = self._clock()
            self._idle.clear()
        self._running += 1
        try:
            yield passage
            passage.answered = True
        except BaseException as error:
            if isinstance(error, Exception) or not passage.answered:
                passage.answered, passage.good = False, self._judged(error, connection, context)
            raise
        finally:
            if passage.answered and passage.good:
                self.last_success = time()
            self._running -= 1
            if not self._running:
                self._idle.set()
            passage.end()

    def _admitted(self) -> Admission | None:
        if self.breaker is None:
            return None
        if (admission := self.breaker.admit()) is None:
            wait = self.breaker.retry_after
            raise Unavailable(
                f"upstream {self._name!r} failed too often of late; a call may try it again in {wait:.1f} s",
                reason="UPSTREAM_BREAKER_OPEN",
                metadata={"upstream": self._name, "retry_after_ms": str(max(1, round(wait * 1000)))},
                retry_after=wait,
            )
        return admission

    def _judged(self, error: BaseException, connection: int, context: CallContext) -> bool | None:
        match error:
            case MCPError():
                counted, self._lost = self._lost == connection, connection
                return None if counted else False
            case DeadlineExceeded():
                if context.deadline is not None and asyncio.get_running_loop().time() >= context.deadline:
                    return None  # the caller gave it less time
                self._overdue = self._clock()
                return False
            case Unavailable():
                return False
            case UpstreamRefused():
                return error.metadata.get("jsonrpc_code") != _INTERNAL_ERROR
            case Exception():
                return True  # it answered, if only that it does not like the request
        return None
