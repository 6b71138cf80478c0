"""Several completions of one prompt, as one stream."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import TypeVar

from narthex_server.pipelines.events import ChatEvent, Finished, Started, Usage
from narthex_server.pipelines.joined import joined

MOST_COMPLETIONS = 16

E = TypeVar("E", bound=ChatEvent)


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
        async with aclosing(joined(streams)) as events:
            async for index, event in events:
                if not isinstance(event, Started):
                    yield index, cost.add(event)


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
