"""Server-sent events as clients read them."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx

DEADLINE_S = 10.0


@dataclass(frozen=True)
class ServerSentEvent:
    """One block of a stream: `data` is empty where it has none, `message` is its JSON."""

    id: str = ""
    data: str = ""
    retry: str = ""
    comment: str = ""

    @property
    def message(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        """Of progress its message, of a result its text."""
        message = self.message
        return message["params"]["message"] if "method" in message else message["result"]["content"][0]["text"]


class EventReader:
    """Reads a streamed answer block by block."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def block(self) -> ServerSentEvent | None:
        """The next block; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_S):
            async for line in self._lines:
                if not line:
                    return ServerSentEvent(**fields)
                name, _, value = line.partition(":")
                if name != "event":
                    fields[name or "comment"] = value.removeprefix(" ")
        assert not fields
        return None

    async def event(self) -> ServerSentEvent:
        """The next block with data."""
        while (block := await self.block()) is not None:
            if block.data:
                return block
        raise AssertionError("the stream has ended")

    async def farewell(self) -> ServerSentEvent:
        """The last block before the end."""
        last = None
        while (block := await self.block()) is not None:
            last = block
        assert last is not None, "the stream ended without a word"
        return last

    async def rest(self) -> list[ServerSentEvent]:
        """All blocks with data up to the end."""
        found = []
        while (block := await self.block()) is not None:
            if block.data:
                found.append(block)
        return found
