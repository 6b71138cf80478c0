"""Runs that go on without their stream, so that another one can join them."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from narthex.v1 import generation_pb2 as wire

from narthex_server.errors import DeadlineExceeded, NotFound, OutOfRange, ResourceExhausted, Unavailable
from narthex_server.principal import Principal

Events = AsyncGenerator[wire.ChatStreamResponse]


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Of one caller: how many runs are kept. Of one run: bytes of events, seconds it may take, seconds kept after.

    Of all together: bytes of events beyond which none begins.
    """

    count: int = 16
    bytes: int = 8 << 20
    seconds: float = 3600.0
    kept_seconds: float = 300.0
    total_bytes: int = 256 << 20


class Run:
    """One run and the last of its events."""

    def __init__(self, owner: tuple[str, str], most_bytes: int) -> None:
        self.id = secrets.token_urlsafe(24)
        self.owner = owner
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self._most_bytes = most_bytes
        self._events: deque[wire.ChatStreamResponse] = deque()
        self._bytes = 0
        self._last = 0  # the sequence of the newest event
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def bytes(self) -> int:
        """Of the events that are kept."""
        return self._bytes

    def put(self, event: wire.ChatStreamResponse) -> None:
        """Numbers an event and keeps it; the oldest give way where there are too many bytes."""
        self._last += 1
        event.sequence = self._last
        self._events.append(event)
        self._bytes += event.ByteSize()
        while self._bytes > self._most_bytes and len(self._events) > 1:
            self._bytes -= self._events.popleft().ByteSize()
        self._wake()

    def end(self, error: Exception | None) -> None:
        """No more events come; `error` is what ended them."""
        self.over, self._error = True, error
        self._wake()

    async def follow(self, after: int = 0) -> Events:
        """The events after that one, each once, to the end of the run; raises what ended it.

        Raises:
            OutOfRange: there is no such event yet, or the next one is no longer kept.
        """
        if after > self._last:
            raise OutOfRange(f"the run has {self._last} events so far, {after} is none of them", reason="NO_SUCH_EVENT")
        while True:
            while after < self._last:
                first = self._events[0].sequence
                if after + 1 < first:
                    raise OutOfRange(
                        f"the events before {first} are no longer kept; the next would be {after + 1}",
                        reason="EVENTS_DROPPED",
                        metadata={"first": str(first)},
                    )
                event = self._events[after + 1 - first]
                after += 1
                yield event
            if self.over:
                if self._error is not None:
                    raise self._error
                return
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Runs:
    """The resumable runs of all callers."""

    def __init__(self, limits: RunLimits = RunLimits()) -> None:
        self._limits = limits
        self._runs: dict[str, Run] = {}

    def start(self, principal: Principal, begin: Callable[[Run], Events]) -> Run:
        """Begins a run in a task of its own.

        Raises ResourceExhausted where the caller has too many that run, or those of all take too many bytes.
        """
        owner = principal.tenant, principal.name
        own = [run for run in self._runs.values() if run.owner == owner]
        if len(own) >= self._limits.count:
            done = next((run for run in own if run.over), None)
            if done is None:
                raise ResourceExhausted(
                    f"there are {len(own)} resumable runs; wait for one, or abort it", reason="RUN_COUNT"
                )
            del self._runs[done.id]
        self._make_room()
        run = Run(owner, self._limits.bytes)
        self._runs[run.id] = run
        run.task = asyncio.create_task(self._feed(run, begin(run)))
        return run

    def _make_room(self) -> None:
        """Forgets runs that are over, the first ones first, while all have too many bytes."""
        total = sum(run.bytes for run in self._runs.values())
        for run in [run for run in self._runs.values() if run.over]:
            if total <= self._limits.total_bytes:
                return
            total -= run.bytes
            del self._runs[run.id]
        if total > self._limits.total_bytes:
            raise ResourceExhausted("resumable runs take too much memory; wait for one", reason="RUN_MEMORY")

    def find(self, principal: Principal, run_id: str) -> Run:
        """Raises NotFound where the caller has no such run, or it ended too long ago."""
        run = self._runs.get(run_id)
        if run is None or run.owner != (principal.tenant, principal.name):
            raise NotFound(f"there is no run {run_id[:100]!r}", reason="RUN_NOT_FOUND")
        return run

    async def stop(self) -> None:
        """Ends all runs."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self, run: Run, events: Events) -> None:
        error: Exception | None = Unavailable("the server is shutting down", reason="DRAINING")
        try:
            async with asyncio.timeout(self._limits.seconds), aclosing(events):
                async for event in events:
                    run.put(event)
            error = None
        except TimeoutError:
            error = DeadlineExceeded(f"a resumable run may take {self._limits.seconds:g} seconds")
        except Exception as caught:
            error = caught
        finally:
            run.end(error)
            asyncio.get_running_loop().call_later(self._limits.kept_seconds, self._runs.pop, run.id, None)
