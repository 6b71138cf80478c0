"""Where sessions are kept."""

from collections.abc import Sequence
from typing import Protocol

from narthex_server.agent.sessions.session import Owner, Session, Summary


class SessionStore(Protocol):
    """Sessions by owner and id; what was not used for the store's time is not there any more."""

    async def list(self, owner: Owner) -> Sequence[Summary]:
        """All of the owner's."""

    async def read(self, owner: Owner, session_id: str) -> Session | None:
        """The owner's session of this id."""

    async def write(self, owner: Owner, session_id: str, session: Session | None) -> None:
        """Keeps the session in place of an older one, or with None forgets it."""
