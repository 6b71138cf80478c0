"""A client that goes before it has its answer."""

import asyncio

from narthex_bridge.transport.http1 import ON_DISCONNECT
from narthex_bridge.transport.incoming import Incoming, Receive


class Departure:
    """Cancels the task that answers a request when its client goes; `gone` says that this was the reason."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None
        self._answered = False
        self.gone = False

    def watch(self, incoming: Incoming) -> None:
        """From now on, by the server where it can tell, else by a task, which costs each request; the body must have
        been read."""
        if (on_disconnect := incoming.scope["extensions"].get(ON_DISCONNECT)) is not None:
            on_disconnect(self._leave)
        else:
            self._watcher = asyncio.create_task(self._wait(incoming.receive))

    def answered(self) -> None:
        """The answer is whole: what is left of it may still be sent to a client that has shut its side."""
        self._answered = True

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        if self._task is not None and not self._answered:
            self.gone = True
            self._task.cancel()
