"""A client of RelayCalls, as thin as it can be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
from narthex.v1 import tool_pb2, tool_pb2_grpc

WINDOW = 64 * 1024


class Relayed:
    """Calls on one stream; those that begin together go in one message."""

    def __init__(self) -> None:
        self._begun = 0
        self._unsent: list[tool_pb2.RelayedAction] = []
        self._sending = asyncio.Event()
        self._ends: dict[int, asyncio.Future[int]] = {}

    async def call(self, request: tool_pb2.CallToolRequest) -> None:
        """Raises RuntimeError where it does not end well."""
        self._begun += 1
        start = tool_pb2.RelayedStart(request=request, window=WINDOW)
        self._unsent.append(tool_pb2.RelayedAction(call=self._begun, start=start))
        self._sending.set()
        end = self._ends[self._begun] = asyncio.get_running_loop().create_future()
        if code := await end:
            raise RuntimeError(f"ended with status {code}")

    async def actions(self) -> AsyncIterator[tool_pb2.RelayCallsRequest]:
        while True:
            await self._sending.wait()
            self._sending.clear()
            unsent, self._unsent = self._unsent, []
            yield tool_pb2.RelayCallsRequest(actions=unsent)

    async def read(self, responses: AsyncIterator[tool_pb2.RelayCallsResponse]) -> None:
        async for response in responses:
            for event in response.events:
                if event.WhichOneof("event") == "end":
                    self._ends.pop(event.call).set_result(event.end.code)


@asynccontextmanager
async def relayed(channel: grpc.aio.Channel) -> AsyncIterator[Relayed]:
    stream = Relayed()
    reading = asyncio.create_task(stream.read(tool_pb2_grpc.ToolServiceStub(channel).RelayCalls(stream.actions())))
    try:
        yield stream
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
