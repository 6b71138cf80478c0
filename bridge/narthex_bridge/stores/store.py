"""What every store can do, and how it fails."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

PAGE = 256  # events of one read


class StoreUnavailable(Exception):
    """The store cannot be reached, or does not answer in time; it may be tried again soon."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept: events and bytes of one session, bytes of all, and for how many seconds.

    In a session the oldest event goes first; of all sessions, the one that was written to least recently loses first.
    """

    events: int
    session_bytes: int
    total_bytes: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Page:
    """What is kept of a stream after some event: numbered messages in order, at most PAGE of them.

    `note` is what the stream began with, `last` the number of its last event, kept or not.
    """

    note: bytes
    events: list[tuple[int, bytes]]
    last: int
    ended: bool


class EventStore(Protocol):
    """The events of streams, numbered from 1; every method raises StoreUnavailable."""

    async def begin(self, session: str, stream: str, note: bytes) -> None:
        """Makes a stream known before its first event."""

    async def append(self, session: str, stream: str, first: int, messages: Sequence[bytes], ended: bool) -> None:
        """Keeps messages from number `first` on; those kept before, and all after the end, are left as they are."""

    async def read(self, session: str, stream: str, after: int) -> Page | None:
        """What comes after event number `after`; None for a stream that is not known, or not any more."""

    async def forget(self, session: str) -> None:
        """Drops all streams of a session."""

    async def sweep(self) -> None:
        """Drops what is too old."""

    async def close(self) -> None:
        """Gives up files and connections."""


class SessionRecords(Protocol):
    """What survives of sessions, as named values; every method raises StoreUnavailable.

    `durable`: they do survive. `shared`: other processes change them too, so that they are read for each request.
    """

    durable: bool
    shared: bool

    async def save(self, session: str, values: Mapping[str, bytes]) -> None:
        """Sets these values, and leaves the others."""

    async def load(self, session: str) -> dict[str, bytes] | None:
        """All values; None where there is no such session."""

    async def remove(self, session: str) -> None:
        """Forgets a session."""

    async def touch(self, sessions: Iterable[str]) -> None:
        """Notes that these are in use; what is not for the idle time is forgotten."""
