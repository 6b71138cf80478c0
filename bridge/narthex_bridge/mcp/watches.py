"""Who is told when resources change."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from narthex_bridge.caller import Caller
from narthex_bridge.server.backend import Backend

Listener = Callable[[str], None]

READY_S = 5.0
"""How long a subscription waits for an upstream that is slow to say that it watches."""


@dataclass(slots=True, eq=False)
class _Watch:
    task: asyncio.Task[None]
    listeners: list[Listener] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


_Key = tuple[Caller, str, str]
"""Who watches, in which session, which URI."""


class Watches:
    """Watches each resource once per caller and session, for as long as somebody listens."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._watches: dict[_Key, _Watch] = {}

    def listen(self, caller: Caller, uri: str, listener: Listener) -> Callable[[], None]:
        """From now on calls `listener` with the URI whenever the resource changes; the returned function ends that."""
        key = (caller, caller.session, uri)
        watch = self._watches.get(key)
        if watch is None:
            watch = self._watches[key] = _Watch(asyncio.create_task(self._follow(key)))
        watch.listeners.append(listener)

        def end() -> None:
            if listener in watch.listeners:
                watch.listeners.remove(listener)
            if not watch.listeners and self._watches.get(key) is watch:
                del self._watches[key]
                watch.task.cancel()

        return end

    async def watching(self, caller: Caller, uri: str) -> None:
        """Returns when the server watches what is listened to here, or cannot for now: a change after that is told."""
        if (watch := self._watches.get((caller, caller.session, uri))) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(watch.ready.wait(), READY_S)

    async def close(self) -> None:
        tasks = [watch.task for watch in self._watches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, key: _Key) -> None:
        caller, _, uri = key
        async for changed in self._backend.watch_resource(caller, uri):
            watch = self._watches[key]
            watch.ready.set()
            for listener in list(watch.listeners) if changed else ():
                listener(uri)
