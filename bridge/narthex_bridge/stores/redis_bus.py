"""The bus of replicas in Redis."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from typing import Any

import orjson

from narthex_bridge.stores.bus import Note, Take
from narthex_bridge.stores.redis import FAILURES, PREFIX, connect, reached
from narthex_bridge.stores.store import StoreUnavailable

logger = logging.getLogger(__name__)

_BUS = f"{PREFIX}bus"
LENGTH = 10_000  # notes that wait for a replica whose connection is lost
BLOCK_S = 5.0
BEAT_S = 2.0
DEAD_AFTER_S = 6.0
RETRY_S = (0.1, 2.0)


class RedisBus:
    """One Redis stream that every replica reads on from where it stopped: a lost connection loses no note."""

    def __init__(self, url: str) -> None:
        self.replica = secrets.token_hex(6)
        self._redis = connect(url)
        self._reader = connect(url, timeout_s=BLOCK_S + 2.0)

    async def publish(self, note: Note) -> None:
        body: Any = {"from": self.replica, "note": orjson.dumps(note)}
        async with reached():
            await self._redis.xadd(_BUS, body, maxlen=LENGTH)

    async def follow(self, take: Take) -> None:
        tasks = {asyncio.create_task(self._read(take)), asyncio.create_task(self._keep_beating())}
        try:
            await asyncio.wait(tasks)
        finally:
            while tasks:  # one cancellation may be lost, see `reached`
                for task in tasks:
                    task.cancel()
                _, tasks = await asyncio.wait(tasks, timeout=0.1)
            with contextlib.suppress(*FAILURES):
                await self._redis.delete(_presence(self.replica))
            await self._redis.aclose()
            await self._reader.aclose()

    async def alive(self, replica: str) -> bool:
        if replica == self.replica:
            return True
        async with reached():
            return bool(await self._redis.exists(_presence(replica)))

    async def _read(self, take: Take) -> None:
        delay, told = RETRY_S[0], True
        place: bytes | None = None
        while True:
            try:
                async with reached():
                    place = place or await self._newest()
                    found: Any = await self._reader.xread({_BUS: place}, count=100, block=int(BLOCK_S * 1000))
            except StoreUnavailable as error:
                if told:
                    logger.warning("the other replicas cannot be heard: %s", error.__cause__)
                told = False
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_S[1])
                continue
            delay, told = RETRY_S[0], True
            for _, entries in found:
                for entry, body in entries:
                    place = entry
                    self._hand_over(body, take)

    def _hand_over(self, body: Mapping[bytes, bytes], take: Take) -> None:
        try:
            if body[b"from"].decode() != self.replica:
                take(orjson.loads(body[b"note"]))
        except Exception:  # a note of a newer version, say: the ones after it are heard all the same
            logger.exception("a note of another replica could not be used")

    async def _newest(self) -> bytes:
        newest: Any = await self._redis.xrevrange(_BUS, count=1)
        return newest[0][0] if newest else b"0"

    async def _keep_beating(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):
                async with reached():
                    await self._redis.set(_presence(self.replica), b"", px=int(DEAD_AFTER_S * 1000))
            await asyncio.sleep(BEAT_S)


def _presence(replica: str) -> str:
    return f"{PREFIX}replica:{replica}"
