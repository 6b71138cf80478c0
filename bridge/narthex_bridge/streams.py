"""The resumable streams of requests: those that this process makes, and those it reads along."""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from narthex_bridge.bus import Bus, Note
from narthex_bridge.config import BridgeConfig
from narthex_bridge.exchange import Exchange
from narthex_bridge.followed import Followed
from narthex_bridge.metrics import Metrics
from narthex_bridge.place import Place
from narthex_bridge.protocol.eras import ERAS, Era
from narthex_bridge.protocol.jsonrpc import Id
from narthex_bridge.reading import Manners, Reading
from narthex_bridge.stores.store import EventStore, StoreUnavailable
from narthex_bridge.stream import Grace, Stream

SETTLE_S = 2.0
_ELSEWHERE = object()  # the reader of a stream that another replica reads


@dataclass(slots=True, eq=False)
class Made:
    """A stream that this process makes: when its reader goes, its calls go on for the grace."""

    stream: Stream
    grace: Grace

    def read_by(self, reader: object) -> None:
        self.grace.end()
        self.stream.told = None
        self.stream.attach(reader)


class Streams:
    """Streams by session and name."""

    def __init__(self, config: BridgeConfig, store: EventStore, bus: Bus, metrics: Metrics) -> None:
        self._config = config
        self._store = store
        self._bus = bus
        self._metrics = metrics
        times = (config.keepalive_s, config.stream_lifetime_s, config.retry_s)
        self.manners = {era: Manners(*times, era.resumable, era.polling) for era in ERAS.values()}
        self._made: dict[tuple[str, str], Made] = {}
        self._followed: dict[tuple[str, str], list[Followed]] = {}

    async def begin(
        self, session: str, era: Era, exchange: Exchange, requests: Sequence[Id], request_id: str
    ) -> Reading:
        """Makes the rest of an exchange a resumable stream. Raises StoreUnavailable."""
        name = secrets.token_hex(5)
        note = {"maker": self._bus.replica, "requests": requests, "request_id": request_id}
        await self._store.begin(session, name, orjson.dumps(note))
        key = (session, name)

        def left() -> None:
            if stream.settled:
                over()
            else:
                grace.begin(stream.last)

        def over() -> None:
            self._made.pop(key, None)

        stream = Stream(session, name, exchange.outbox, self._store, self._metrics, left, finite=True)
        grace = Grace(stream, self._config.resume_grace_s, exchange.cancel_calls, over)
        made = self._made[key] = Made(stream, grace)
        reading = Reading(stream, session, name, 0, self.manners[era], self._metrics, exchange.cancel_calls)
        reading.tally = exchange.tally
        made.read_by(reading)
        return reading

    async def resume(self, session: str, era: Era, place: Place) -> Reading | None:
        """Reads on from a place; None where that is not known any more. Raises StoreUnavailable."""
        made = self._made.get((session, place.stream))
        if made is not None:
            if place.number > made.stream.last:
                return None
        else:
            page = await self._store.read(session, place.stream, place.number)
            if page is None or place.number > page.last:
                return None
        source = made.stream if made is not None else self._follow(session, place.stream)
        reading = Reading(source, session, place.stream, place.number, self.manners[era], self._metrics)
        if made is not None:
            made.read_by(reading)
        self._metrics.resumed_streams.inc()
        return reading

    def hear(self, note: Note) -> None:
        """What other replicas tell about streams."""
        key = (note["session"], note["stream"])
        if note["kind"] == "more":
            for followed in self._followed.get(key, ()):
                followed.wake()
        elif note["kind"] == "reading" and (made := self._made.get(key)) is not None:
            made.stream.attach(_ELSEWHERE)
            made.stream.told = lambda: self._tell_more(key)
            made.grace.begin(note["number"])

    async def settle(self) -> None:
        """Waits, not for long, until what the calls said at last is kept."""
        tasks = [made.grace.task for made in self._made.values() if made.grace.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE_S)

    def _follow(self, session: str, name: str) -> Followed:
        followed = Followed(session, name, self._store, self._bus, self._metrics, self._unfollow)
        self._followed.setdefault((session, name), []).append(followed)
        return followed

    def _unfollow(self, followed: Followed) -> None:
        key = (followed.session, followed.name)
        if followed in (others := self._followed.get(key, [])):
            others.remove(followed)
            if not others:
                del self._followed[key]

    async def _tell_more(self, key: tuple[str, str]) -> None:
        with contextlib.suppress(StoreUnavailable):  # the other one also looks by itself
            await self._bus.publish({"kind": "more", "session": key[0], "stream": key[1]})
