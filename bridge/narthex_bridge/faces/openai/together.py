"""Several pieces of work as one."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from narthex_bridge.outbox import Backlog

Item = TypeVar("Item")

AT_ONCE = 8
_FOREVER_S = 3600.0


async def all_of(works: Sequence[Callable[[], Coroutine[Any, Any, Item]]]) -> list[Item]:
    """The results, in order, of work that runs a few at a time; the first failure ends all."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(work: Callable[[], Coroutine[Any, Any, Item]]) -> Item:
        async with room:
            return await work()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(work)) for work in works]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def merged(streams: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[tuple[int, Item], None]:
    """The items of all streams as they come, each with its stream's index; a few run at a time."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    backlog: Backlog[tuple[int, Item]] = Backlog()

    async def feed(index: int, stream: AsyncGenerator[Item, None]) -> None:
        async with aclosing(stream):
            async for item in stream:
                await backlog.put((index, item))

    async def feed_all() -> None:
        try:
            await all_of([partial(feed, index, stream) for index, stream in enumerate(streams)])
        finally:
            backlog.close()

    task = asyncio.create_task(feed_all())
    try:
        while (numbered := await backlog.take(_FOREVER_S)) is not None:
            for index, item in numbered:
                yield index, item
        await task
    finally:
        task.cancel()
