"""The resumable streams of requests: those that this process makes, and those it reads along."""

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import orjson

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.http.messages import Tally
from narthex_bridge.metrics import Metrics
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol.eras import ERAS, Era
from narthex_bridge.protocol.jsonrpc import Id
from narthex_bridge.stores.bus import Bus, Note
from narthex_bridge.stores.store import EventStore, StoreUnavailable
from narthex_bridge.streams.followed import Followed
from narthex_bridge.streams.grace import Grace
from narthex_bridge.streams.made import Made
from narthex_bridge.streams.place import Place
from narthex_bridge.streams.reading import Manners, Reading
from narthex_bridge.streams.stream import Stream

SETTLE_S = 2.0


class Producer(Protocol):
    """The requests whose messages a stream carries."""

    outbox: Outbox
    tally: Tally

    def cancel_calls(self) -> None:
        """Ends the calls; their answers, which say so, are the last messages."""


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
        self._tasks: set[asyncio.Task[None]] = set()
        self._followed: dict[tuple[str, str], list[Followed]] = {}

    async def begin(
        self, session: str, era: Era, producer: Producer, requests: Sequence[Id], request_id: str
    ) -> Reading:
        """Makes what the producer still has to tell a resumable stream. Raises StoreUnavailable."""
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

        stream = Stream(session, name, producer.outbox, self._store, self._metrics, left, finite=True)
        grace = Grace(stream, self._config.resume_grace_s, producer.cancel_calls, over)
        made = self._made[key] = Made(stream, grace)
        reading = Reading(stream, session, name, 0, self.manners[era], self._metrics, producer.cancel_calls)
        reading.tally = producer.tally
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
        for followed in self._followed.get(key, ()):
            match note["kind"]:
                case "more":
                    followed.wake()
                case "gone":
                    followed.gone()
                case "taken" if note["reader"] == followed.reader:
                    followed.taken()
        if note["kind"] == "reading" and note["maker"] == self._bus.replica:
            if (made := self._made.get(key)) is None:
                self._later(self._tell("gone", key))
            elif not made.read_elsewhere(note["reader"], note["number"], lambda: self._tell("more", key)):
                self._later(self._tell("taken", key, note["reader"]))

    async def settle(self) -> None:
        """Waits, not for long, until what the calls said at last is kept."""
        tasks = [made.grace.task for made in self._made.values() if made.grace.task is not None] + list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE_S)

    def _follow(self, session: str, name: str) -> Followed:
        followed = Followed(session, name, self._store, self._bus, self._metrics, self._unfollow)
        others = self._followed.setdefault((session, name), [])
        for other in others:
            other.taken()
        others.append(followed)
        return followed

    def _unfollow(self, followed: Followed) -> None:
        key = (followed.session, followed.name)
        if followed in (others := self._followed.get(key, [])):
            others.remove(followed)
            if not others:
                del self._followed[key]

    async def _tell(self, kind: str, key: tuple[str, str], reader: str = "") -> None:
        with contextlib.suppress(StoreUnavailable):  # the other one looks and asks again
            await self._bus.publish({"kind": kind, "session": key[0], "stream": key[1], "reader": reader})

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
