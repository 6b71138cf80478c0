"""Who is told when resources change."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from narthex_bridge.caller import Caller
from narthex_bridge.server.backend import Backend

Listener = Callable[[str], None]


@dataclass(slots=True, eq=False)
class _Watch:
    task: asyncio.Task[None]
    listeners: list[Listener] = field(default_factory=list)


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

    async def close(self) -> None:
        tasks = [watch.task for watch in self._watches.values()]
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, key: _Key) -> None:
        caller, _, uri = key
        async for _ in self._backend.watch_resource(caller, uri):
            for listener in list(self._watches[key].listeners):
                listener(uri)
