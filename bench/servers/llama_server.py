"""llama.cpp's llama-server, through its HTTP streams."""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from bench.peers.environment import LlamaCppBuild
from bench.servers.server import READY_S, process

HOST = "127.0.0.1"


class LlamaServer:
    """Speaks HTTP/1.1 by hand: a client library would cost more than the stream itself."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def stream(self, prompt: Sequence[int], tokens: int) -> list[float]:
        body = json.dumps(
            {"prompt": list(prompt), "n_predict": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        ).encode()
        times: list[float] = []
        async for line in self._lines(b"POST /completion", body):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                times += [time.perf_counter()] * (0 if event.get("stop") else len(event.get("tokens", ())))
        return times

    async def ready(self) -> None:
        """Wait until the model is loaded."""
        while True:
            with contextlib.suppress(OSError):
                if b" 200 " in await anext(self._lines(b"GET /health", b"")):
                    return
            await asyncio.sleep(0.1)

    async def _lines(self, target: bytes, body: bytes) -> AsyncIterator[bytes]:
        """The answer's lines, head and chunk sizes among them."""
        reader, writer = await asyncio.open_connection(HOST, self._port)
        try:
            writer.write(
                target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            async for line in reader:
                yield line
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def llama_server(
    build: LlamaCppBuild, path: Path, slots: int, size: int, threads: int, log: Path
) -> AsyncIterator[LlamaServer]:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    command: list[str | Path] = [
        build.server, "--model", path, "--host", HOST, "--port", str(port), "--parallel", str(slots),
        "--ctx-size", str(slots * size), "--threads", str(threads), "--threads-batch", str(threads),
    ]  # fmt: skip
    async with process(command, log, os.environ):
        server = LlamaServer(port)
        await asyncio.wait_for(server.ready(), READY_S)
        yield server
