"""A turn of the model that has to be over at some time."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def until(deadline: float | None, stop: Callable[[], bool], events: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The events; at the `deadline`, on the event loop's clock, `stop` ends them, and they still say what they cost.

    Where it cannot, as nothing has begun yet, they just end.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Timeout | None = None
    late = False

    def over() -> None:
        nonlocal late
        late = not stop()
        if late and waiting is not None:
            waiting.reschedule(loop.time())

    timer = None if deadline is None else loop.call_at(deadline, over)
    try:
        async with aclosing(events):
            while True:
                try:
                    async with asyncio.timeout(0 if late else None) as waiting:
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if late:
                        return
                    raise
                waiting = None
                yield event
    finally:
        if timer is not None:
            timer.cancel()
