"""Sessions and events in Redis, which several bridges share."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from narthex_bridge.stores.store import PAGE, Bounds, Page, StoreUnavailable

TIMEOUT_S = 2.0
FAILURES = (RedisError, OSError, TimeoutError)
PREFIX = "narthex:"


def connect(url: str, *, timeout_s: float = TIMEOUT_S) -> client.Redis:
    """A client that answers or fails within the time; it connects when it is used, and again after each loss."""
    return client.Redis.from_url(
        url,
        protocol=2,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1),  # once: a pooled connection may have died while it was idle
        health_check_interval=30,
    )


@asynccontextmanager
async def reached() -> AsyncIterator[None]:
    """Every failure of Redis as StoreUnavailable."""
    try:
        yield
    except FAILURES as error:
        raise StoreUnavailable("Redis cannot be reached, or refuses what it is asked.") from error
    # The client uses asyncio.wait_for, which before Python 3.12 loses a cancellation that comes with the answer.
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError


# A session's journal is the list of its events in order: time, stream, number and size of each. A stream is a hash of
# its events by number, and `note`, `last`, `count`, `ended`. Everything about one step happens in one script, so that
# replicas never see half of it. The scripts make up names of keys: Redis Cluster cannot run them.
_SHARED = """
local P, sid = KEYS[1], ARGV[1]
local function drop(sid)
  local ref = redis.call('LPOP', P .. 'journal:' .. sid)
  local at, name, number, size = string.match(ref, '^(%S+) (%S+) (%S+) (%S+)$')
  local key = P .. 'stream:' .. sid .. ':' .. name
  redis.call('DECRBY', P .. 'bytes', size)
  if redis.call('HINCRBY', P .. 'sizes', sid, -tonumber(size)) <= 0
     and redis.call('LLEN', P .. 'journal:' .. sid) == 0 then
    redis.call('HDEL', P .. 'sizes', sid)
    redis.call('ZREM', P .. 'recent', sid)
  end
  if redis.call('HDEL', key, number) == 0 then return end
  if redis.call('HINCRBY', key, 'count', -1) <= 0 and redis.call('HGET', key, 'ended') == '1' then
    redis.call('DEL', key)
    redis.call('SREM', P .. 'streams:' .. sid, name)
  end
end
local function remember(sid, name, ms)
  redis.call('SADD', P .. 'streams:' .. sid, name)
  redis.call('PEXPIRE', P .. 'streams:' .. sid, ms)
  redis.call('PEXPIRE', P .. 'stream:' .. sid .. ':' .. name, ms)
end
local function expire(sid, oldest)
  while true do
    local ref = redis.call('LINDEX', P .. 'journal:' .. sid, 0)
    if not ref or tonumber(string.match(ref, '^%S+')) > oldest then return end
    drop(sid)
  end
end
"""
_BEGIN = """
redis.call('HSET', P .. 'stream:' .. sid .. ':' .. ARGV[2], 'note', ARGV[3])
remember(sid, ARGV[2], ARGV[4])
redis.call('ZADD', P .. 'recent', 'XX', redis.call('INCR', P .. 'turn'), sid)
"""
_APPEND = """
local name, first, ended = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local events, bytes, total = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local messages = 11
local key, journal = P .. 'stream:' .. sid .. ':' .. name, P .. 'journal:' .. sid
expire(sid, tonumber(ARGV[6]))
if redis.call('HGET', key, 'ended') == '1' then return end
local last = tonumber(redis.call('HGET', key, 'last') or '0')
for i = messages, #ARGV do
  local number, message = first + i - messages, ARGV[i]
  if number > last then
    redis.call('HSET', key, number, message)
    redis.call('HINCRBY', key, 'count', 1)
    redis.call('RPUSH', journal, ARGV[5] .. ' ' .. name .. ' ' .. number .. ' ' .. #message)
    redis.call('HINCRBY', P .. 'sizes', sid, #message)
    redis.call('INCRBY', P .. 'bytes', #message)
    last = number
  end
end
redis.call('HSET', key, 'last', last, 'ended', ended)
remember(sid, name, ARGV[10])
if redis.call('LLEN', journal) > 0 then
  redis.call('ZADD', P .. 'recent', redis.call('INCR', P .. 'turn'), sid)
end
while redis.call('LLEN', journal) > events or tonumber(redis.call('HGET', P .. 'sizes', sid) or '0') > bytes do
  drop(sid)
end
while tonumber(redis.call('GET', P .. 'bytes') or '0') > total do
  local least = redis.call('ZRANGE', P .. 'recent', 0, 0)[1]
  if not least then break end
  drop(least)
end
"""
_READ = """
local key, after = P .. 'stream:' .. sid .. ':' .. ARGV[2], tonumber(ARGV[3])
expire(sid, tonumber(ARGV[4]))
if redis.call('EXISTS', key) == 0 then return false end
local about = redis.call('HMGET', key, 'note', 'last', 'ended', 'count')
local last, events, found = tonumber(about[2] or '0'), {}, 0
if tonumber(about[4] or '0') > 0 then
  local number = after + 1
  while number <= last and found < tonumber(ARGV[5]) do
    local message = redis.call('HGET', key, number)
    if message then
      found = found + 1
      events[2 * found - 1], events[2 * found] = number, message
    end
    number = number + 1
  end
end
return {about[1] or '', last, about[3] or '0', events}
"""
_FORGET = """
for _, name in ipairs(redis.call('SMEMBERS', P .. 'streams:' .. sid)) do
  redis.call('DEL', P .. 'stream:' .. sid .. ':' .. name)
end
redis.call('DECRBY', P .. 'bytes', redis.call('HGET', P .. 'sizes', sid) or '0')
redis.call('HDEL', P .. 'sizes', sid)
redis.call('ZREM', P .. 'recent', sid)
redis.call('DEL', P .. 'streams:' .. sid, P .. 'journal:' .. sid)
"""
_SWEEP = """
for _, session in ipairs(redis.call('ZRANGE', P .. 'recent', 0, -1)) do expire(session, tonumber(sid)) end
"""


class RedisEvents:
    """EventStore that replicas share; their clocks should agree to the second.

    Streams to which nothing comes for `silent_s` seconds are forgotten even if they have not ended: their makers may be
    dead, and their sessions gone.
    """

    def __init__(
        self, redis: client.Redis, bounds: Bounds, silent_s: float, now: Callable[[], float] = time.time
    ) -> None:
        self._redis = redis
        self._bounds = bounds
        self._silent_ms = int((silent_s + bounds.age_s) * 1000)
        self._now = now
        self._key = f"{PREFIX}events:"
        self._begin, self._append, self._read, self._forget, self._sweep = (
            redis.register_script(_SHARED + body) for body in (_BEGIN, _APPEND, _READ, _FORGET, _SWEEP)
        )

    async def begin(self, session: str, stream: str, note: bytes) -> None:
        await self._run(self._begin, session, stream, note, self._silent_ms)

    async def append(self, session: str, stream: str, first: int, messages: Sequence[bytes], ended: bool) -> None:
        bounds, now = self._bounds, self._now()
        limits = (bounds.events, bounds.session_bytes, bounds.total_bytes, self._silent_ms)
        times = (repr(now), repr(now - bounds.age_s))
        await self._run(self._append, session, stream, first, int(ended), *times, *limits, *messages)

    async def read(self, session: str, stream: str, after: int) -> Page | None:
        found = await self._run(self._read, session, stream, after, repr(self._now() - self._bounds.age_s), PAGE)
        if not found:
            return None
        note, last, ended, events = found
        numbers, messages = events[::2], events[1::2]
        return Page(note, list(zip(map(int, numbers), messages, strict=True)), int(last), ended == b"1")

    async def forget(self, session: str) -> None:
        await self._run(self._forget, session)

    async def sweep(self) -> None:
        await self._run(self._sweep, repr(self._now() - self._bounds.age_s))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _run(self, script: Any, *arguments: str | bytes | int) -> Any:
        async with reached():
            return await script(keys=[self._key], args=arguments)


class RedisRecords:
    """SessionRecords that replicas share; Redis itself forgets the idle ones."""

    durable = True
    shared = True

    def __init__(self, redis: client.Redis, idle_s: float) -> None:
        self._redis = redis
        self._idle_ms = int(idle_s * 1000)

    async def save(self, session: str, values: Mapping[str, bytes]) -> None:
        async with reached(), self._redis.pipeline() as pipe:
            pipe.hset(_record(session), mapping=cast(Any, values))
            pipe.pexpire(_record(session), self._idle_ms)
            await pipe.execute()

    async def load(self, session: str) -> dict[str, bytes] | None:
        async with reached(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(_record(session))
            pipe.pexpire(_record(session), self._idle_ms)
            values, _ = await pipe.execute()
        return {name.decode(): value for name, value in values.items()} or None

    async def remove(self, session: str) -> None:
        async with reached():
            await self._redis.delete(_record(session))

    async def touch(self, sessions: Iterable[str]) -> None:
        async with reached(), self._redis.pipeline(transaction=False) as pipe:
            for session in sessions:
                pipe.pexpire(_record(session), self._idle_ms)
            await pipe.execute()


def _record(session: str) -> str:
    return f"{PREFIX}session:{session}"
