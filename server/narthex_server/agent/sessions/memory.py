"""Sessions that end with the process."""

from collections.abc import Callable, Sequence

from narthex_server.agent.sessions.session import Owner, Session, Summary


class MemorySessions:
    """A SessionStore in this process; `seconds` is how long unused sessions are kept."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._sessions: dict[tuple[Owner, str], Session] = {}

    async def list(self, owner: Owner) -> Sequence[Summary]:
        self._expire()
        return [session.summary for (whose, _), session in self._sessions.items() if whose == owner]

    async def read(self, owner: Owner, session_id: str) -> Session | None:
        self._expire()
        return self._sessions.get((owner, session_id))

    async def write(self, owner: Owner, session_id: str, session: Session | None) -> None:
        self._expire()
        if self._sessions.pop((owner, session_id), None) is None and session is None:
            return
        if session is not None:
            self._sessions[owner, session_id] = session  # the one used last is the last

    def _expire(self) -> None:
        before = self._clock() - self._seconds
        for key, session in list(self._sessions.items()):
            if session.summary.used > before:
                return
            del self._sessions[key]
