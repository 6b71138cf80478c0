"""Events in the memory of this process; sessions live in it anyway."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from narthex_bridge.protocol.jsonrpc import compact
from narthex_bridge.stores.store import PAGE, Bounds, Page


@dataclass(slots=True)
class _Stream:
    note: bytes = b""
    events: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    ended: bool = False


@dataclass(slots=True)
class _Journal:
    """One session: its streams, and the time, stream and number of each event in the order they came."""

    streams: dict[str, _Stream] = field(default_factory=dict)
    order: deque[tuple[float, str, int]] = field(default_factory=deque)
    bytes: int = 0


class MemoryEvents:
    """EventStore of one process."""

    def __init__(self, bounds: Bounds, now: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._now = now
        self._journals: dict[str, _Journal] = {}  # the one written to least recently comes first
        self._bytes = 0

    async def begin(self, session: str, stream: str, note: bytes) -> None:
        self._written(session).streams.setdefault(stream, _Stream()).note = compact(note)

    async def append(self, session: str, stream: str, first: int, messages: Sequence[bytes], ended: bool) -> None:
        journal, now = self._written(session), self._now()
        self._expire(session, journal, now)
        into = journal.streams.setdefault(stream, _Stream())
        if into.ended:
            return
        for number, message in enumerate(messages, first):
            if number > into.last:
                into.events[number], into.last = compact(message), number
                journal.order.append((now, stream, number))
                journal.bytes += len(message)
                self._bytes += len(message)
        into.ended = ended
        while len(journal.order) > self._bounds.events or journal.bytes > self._bounds.session_bytes:
            self._drop(session, journal)
        while self._bytes > self._bounds.total_bytes:
            self._drop(*next((name, other) for name, other in self._journals.items() if other.order))

    async def read(self, session: str, stream: str, after: int) -> Page | None:
        if (journal := self._journals.get(session)) is None:
            return None
        self._expire(session, journal, self._now())
        if (found := journal.streams.get(stream)) is None:
            return None
        numbers = [number for number in found.events if number > after][:PAGE]
        return Page(found.note, [(number, found.events[number]) for number in numbers], found.last, found.ended)

    async def forget(self, session: str) -> None:
        if (journal := self._journals.pop(session, None)) is not None:
            self._bytes -= journal.bytes

    async def sweep(self) -> None:
        now = self._now()
        for session, journal in list(self._journals.items()):
            self._expire(session, journal, now)

    async def close(self) -> None:
        self._journals.clear()

    def _written(self, session: str) -> _Journal:
        journal = self._journals[session] = self._journals.pop(session, _Journal())
        return journal

    def _expire(self, session: str, journal: _Journal, now: float) -> None:
        while journal.order and journal.order[0][0] <= now - self._bounds.age_s:
            self._drop(session, journal)

    def _drop(self, session: str, journal: _Journal) -> None:
        _, name, number = journal.order.popleft()
        stream = journal.streams[name]
        size = len(stream.events.pop(number))
        journal.bytes -= size
        self._bytes -= size
        if stream.ended and not stream.events:
            del journal.streams[name]
            if not journal.streams:
                self._journals.pop(session, None)


class NoRecords:
    """SessionRecords of a process whose sessions end with it."""

    durable = False
    shared = False

    async def save(self, session: str, values: Mapping[str, bytes]) -> None:
        """Nothing: the session itself is in memory."""

    async def load(self, session: str) -> dict[str, bytes] | None:
        return None

    async def remove(self, session: str) -> None:
        """Nothing is kept."""

    async def touch(self, sessions: Iterable[str]) -> None:
        """Nothing is kept."""
