"""A real MCP server behind a WebSocket: rich.py as a process for each connection, a line of it a text frame."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Request, Response, ServerConnection, serve

RICH = Path(__file__).parent / "servers" / "rich.py"


class WebSocketServer:
    """`noise` is sent before anything else; a `refusal` is the answer to who wants a connection."""

    def __init__(self) -> None:
        self.noise: list[str | bytes] = []
        self.refusal = ""
        self.headers: list[Any] = []
        self.connections: set[ServerConnection] = set()

    @asynccontextmanager
    async def served(self, port: int = 0, **options: Any) -> AsyncIterator[int]:
        async with serve(
            self._talk,
            "127.0.0.1",
            port,
            subprotocols=["mcp"],
            max_size=16 << 20,
            process_request=self._judge,
            **options,
        ) as server:
            yield next(iter(server.sockets)).getsockname()[1]

    async def cut(self) -> None:
        """Breaks every connection off, without a word."""
        for connection in list(self.connections):
            connection.transport.abort()

    def _judge(self, connection: ServerConnection, request: Request) -> Response | None:
        self.headers.append(request.headers)
        if self.refusal:
            return connection.respond(
                HTTPStatus.FORBIDDEN, self.refusal + json.dumps(dict(request.headers.raw_items()))
            )
        return None

    async def _talk(self, connection: ServerConnection) -> None:
        self.connections.add(connection)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "ignore", str(RICH), "stdio", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, limit=16 << 20,
        )  # fmt: skip

        async def answer() -> None:
            assert child.stdout is not None
            while line := await child.stdout.readline():
                await connection.send(line.decode().strip())
            await connection.close()

        for frame in self.noise:
            await connection.send(frame)
        answering = asyncio.create_task(answer())
        try:
            async for frame in connection:
                assert child.stdin is not None and isinstance(frame, str)
                child.stdin.write(frame.encode() + b"\n")
                with suppress(ConnectionError):
                    await child.stdin.drain()
        finally:
            answering.cancel()
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
            await asyncio.gather(answering, return_exceptions=True)
            self.connections.discard(connection)
