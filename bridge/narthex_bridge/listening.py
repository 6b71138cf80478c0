"""A session's own stream, for messages that answer no request, while somebody reads it here."""

from dataclasses import dataclass

from narthex_bridge.sessions import Session, SessionStore
from narthex_bridge.stream import Event, Stream


@dataclass(slots=True, eq=False)
class Listening:
    """Source of one connection that listens to a session."""

    stream: Stream
    session: Session
    sessions: SessionStore
    finite: bool = False

    async def after(self, reader: object, number: int, patience_s: float) -> list[Event] | None:
        return await self.stream.after(reader, number, patience_s)

    def leave(self, reader: object) -> None:
        if self.stream.detach(reader):
            self.sessions.unlisten(self.session, self.stream)
