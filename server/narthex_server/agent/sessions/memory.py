"""Sessions that end with the process."""

from collections.abc import Callable, Sequence

from narthex_server.agent.sessions.session import Owner, Session, Summary

MOST_BYTES = 1 << 30


class MemorySessions:
    """A SessionStore in this process; `seconds` is how long unused sessions are kept.

    Of more than `most_bytes` in all, those give way that were not used for longest.
    """

    def __init__(self, seconds: float, clock: Callable[[], float], most_bytes: int = MOST_BYTES) -> None:
        self._seconds = seconds
        self._clock = clock
        self._most_bytes = most_bytes
        self._bytes = 0
        self._sessions: dict[tuple[Owner, str], Session] = {}

    async def list(self, owner: Owner) -> Sequence[Summary]:
        self._expire()
        return [session.summary for (whose, _), session in self._sessions.items() if whose == owner]

    async def read(self, owner: Owner, session_id: str) -> Session | None:
        self._expire()
        return self._sessions.get((owner, session_id))

    async def write(self, owner: Owner, session_id: str, session: Session | None) -> None:
        self._expire()
        if (owner, session_id) in self._sessions:
            self._drop((owner, session_id))
        if session is not None:
            self._sessions[owner, session_id] = session  # the one used last is the last
            self._bytes += session.summary.size
            while self._bytes > self._most_bytes and len(self._sessions) > 1:
                self._drop(next(iter(self._sessions)))

    def _expire(self) -> None:
        before = self._clock() - self._seconds
        for key, session in list(self._sessions.items()):
            if session.summary.used > before:
                return
            self._drop(key)

    def _drop(self, key: tuple[Owner, str]) -> None:
        self._bytes -= self._sessions.pop(key).summary.size
