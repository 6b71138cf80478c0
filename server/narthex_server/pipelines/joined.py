"""Several streams as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")

MOST_UNREAD = 16
"""Items that wait for a slow reader; with more the streams wait."""


async def joined(streams: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """What comes of all of them, each with its stream's place; ends when all have. Errors: the first one ends all."""
    items: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue(MOST_UNREAD)

    async def read(place: int, stream: AsyncGenerator[T]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await items.put((place, item))
        except Exception as error:
            await items.put(error)
        else:
            await items.put(None)

    tasks = [asyncio.create_task(read(place, stream)) for place, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            match await items.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case item:
                    yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
