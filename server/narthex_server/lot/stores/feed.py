"""Who wants to hear of changes, and what each has not heard yet."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterable

from narthex_server.lot.ticket import Change


class Feed:
    """Hands changes to all who listen; use from one event loop. Who is forgotten stops listening."""

    def __init__(self) -> None:
        self._listeners: weakref.WeakSet[_Listener] = weakref.WeakSet()

    @property
    def heard(self) -> bool:
        """Whether anybody listens; also right from another thread."""
        return len(self._listeners) > 0

    def subscribe(self) -> AsyncIterator[Change]:
        """What is published from now on; of what a slow listener has not heard yet, only the last of each ticket."""
        listener = _Listener()
        self._listeners.add(listener)
        return listener

    def publish(self, changes: Iterable[Change]) -> None:
        listeners = list(self._listeners)
        for change in changes:
            for listener in listeners:
                listener.put(change)

    def close(self) -> None:
        """Everybody's iteration ends, after what was published."""
        for listener in list(self._listeners):
            listener.end()


class _Listener:
    def __init__(self) -> None:
        self._unheard: dict[tuple[str, str], Change] = {}
        self._awake = asyncio.Event()
        self._ended = False

    def put(self, change: Change) -> None:
        self._unheard[change.tenant, change.id] = change
        self._awake.set()

    def end(self) -> None:
        self._ended = True
        self._awake.set()

    def __aiter__(self) -> "_Listener":
        return self

    async def __anext__(self) -> Change:
        while not self._unheard:
            if self._ended:
                raise StopAsyncIteration
            self._awake.clear()
            await self._awake.wait()
        return self._unheard.pop(next(iter(self._unheard)))
