"""What sessions are subscribed to."""

from collections.abc import Callable

from narthex_bridge.mcp.watches import Watches
from narthex_bridge.protocol.notifications import updated
from narthex_bridge.sessions.session import Session

Tell = Callable[[Session, bytes], object]


class Subscriptions:
    """Makes what is watched for a session what its `subscriptions` say, also when they were changed elsewhere."""

    def __init__(self, watches: Watches, tell: Tell) -> None:
        """`tell` sends a session's client a message, now or when it listens."""
        self._watches = watches
        self._tell = tell

    def settle(self, session: Session) -> None:
        for uri in session.subscriptions - session.watched.keys():
            session.watched[uri] = self._watches.listen(session.speaker, uri, lambda it: self._changed(session, it))
        for uri in session.watched.keys() - session.subscriptions:
            session.watched.pop(uri)()

    def _changed(self, session: Session, uri: str) -> None:
        self._tell(session, updated(uri))
