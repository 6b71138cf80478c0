"""A stream that another replica makes, or nobody any more, read from the store."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import orjson

from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.stores.bus import Bus
from narthex_bridge.stores.store import EventStore, Page
from narthex_bridge.streams.source import Event, with_losses

POLL_S = 1.0  # between looks into the store where no replica says that there is more

_RESTARTED = BackendError(
    "UNAVAILABLE",
    "The bridge that ran this request has ended; whether it was done is not known.",
    reason="BRIDGE_ENDED",
)


class Followed:
    """Source of a stream that is made elsewhere. A maker that has ended is answered for: no request stays open."""

    finite = True

    def __init__(
        self, session: str, name: str, store: EventStore, bus: Bus, metrics: Metrics, left: Callable[["Followed"], None]
    ) -> None:
        self.session = session
        self.name = name
        self._store = store
        self._bus = bus
        self._metrics = metrics
        self._left = left
        self._more = asyncio.Event()
        self._gone = self._taken = False
        self.reader = secrets.token_hex(6)

    def wake(self) -> None:
        """The maker says that there is more."""
        self._more.set()

    def gone(self) -> None:
        """The maker says that it makes this no more."""
        self._gone = True
        self._more.set()

    def taken(self) -> None:
        """The stream has another reader now."""
        self._taken = True
        self._more.set()

    async def after(self, reader: object, number: int, patience_s: float) -> list[Event] | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + patience_s
        while not self._taken:
            self._more.clear()
            page = await self._store.read(self.session, self.name, number)
            if page is None:
                return None  # its session has ended
            if page.events or page.last > number:
                return with_losses(number, page.events, page.last)
            if page.ended:
                return None
            if not await self._asked(page, number):
                await self._answer_for_it(page)
                continue
            if (left := until - loop.time()) <= 0:
                return []
            try:
                async with asyncio.timeout(min(left, POLL_S)):
                    await self._more.wait()
            except TimeoutError:
                pass
        return None

    def leave(self, reader: object) -> None:
        self._left(self)

    async def _asked(self, page: Page, number: int) -> bool:
        """Tells the maker that somebody reads, and how far; False where there is no maker any more."""
        maker = orjson.loads(page.note)["maker"] if page.note else ""
        if self._gone or maker == self._bus.replica or not await self._bus.alive(maker):
            return False
        place = {"session": self.session, "stream": self.name, "number": number}
        await self._bus.publish({"kind": "reading", "maker": maker, "reader": self.reader, **place})
        return True

    async def _answer_for_it(self, page: Page) -> None:
        note: dict[str, Any] = orjson.loads(page.note) if page.note else {"requests": [], "request_id": ""}
        answered = await self._answered()
        errors = [
            jsonrpc.error(request, rpc_error(_RESTARTED, note["request_id"]))
            for request in note["requests"]
            if request not in answered
        ]
        self._metrics.lost_calls.inc(len(errors))
        await self._store.append(self.session, self.name, page.last + 1, errors, True)

    async def _answered(self) -> list[object]:
        found: list[object] = []
        number = 0
        while (page := await self._store.read(self.session, self.name, number)) is not None and page.events:
            number = page.events[-1][0]
            messages = [orjson.loads(message) for _, message in page.events]
            found += [message["id"] for message in messages if "method" not in message]
        return found
