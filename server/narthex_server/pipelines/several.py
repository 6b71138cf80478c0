"""Several completions of one prompt, as one stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from narthex_server.pipelines.events import ChatEvent, Finished, Started, Usage

MOST_COMPLETIONS = 16

E = TypeVar("E", bound=ChatEvent)


@dataclass(frozen=True, slots=True)
class _Read(Generic[E]):
    """What came of one stream: an event, an error, or neither at its end."""

    index: int
    event: E | None = None
    error: BaseException | None = None


async def several(streams: Sequence[AsyncGenerator[E]]) -> AsyncGenerator[tuple[int, E | Finished]]:
    """Yields the events of all streams as they come, each with its stream's index; closing it closes all.

    The first one's Started comes first and alone, for it refuses what all would refuse. The usage of each Finished is
    that of all streams so far, the prompt counted once. Errors: those of the streams; the first one ends all.
    """
    async with AsyncExitStack() as stack:
        for stream in streams:
            await stack.enter_async_context(aclosing(stream))
        yield 0, await anext(streams[0])
        cost = _Cost()
        if len(streams) == 1:
            async for event in streams[0]:
                yield 0, cost.add(event)
            return
        reads: asyncio.Queue[_Read[E]] = asyncio.Queue(len(streams))
        tasks = [asyncio.create_task(_read(index, stream, reads)) for index, stream in enumerate(streams)]
        try:
            running = len(tasks)
            while running:
                read = await reads.get()
                if read.error is not None:
                    raise read.error
                if read.event is None:
                    running -= 1
                elif not isinstance(read.event, Started):
                    yield read.index, cost.add(read.event)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _read(index: int, stream: AsyncGenerator[E], reads: "asyncio.Queue[_Read[E]]") -> None:
    try:
        async for event in stream:
            await reads.put(_Read(index, event))
    except Exception as error:
        await reads.put(_Read(index, error=error))
    else:
        await reads.put(_Read(index))


class _Cost:
    """What all completions took so far."""

    def __init__(self) -> None:
        self._usage = Usage()

    def add(self, event: E) -> E | Finished:
        if not isinstance(event, Finished):
            return event
        before, usage = self._usage, event.usage
        self._usage += usage
        if before.prompt_tokens:  # all but the one that computed it found it in the cache
            cached = min(before.cached_tokens, usage.cached_tokens)
            self._usage = replace(self._usage, prompt_tokens=before.prompt_tokens, cached_tokens=cached)
        return replace(event, usage=self._usage)
