"""A Redis of our own."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 10.0


@dataclass
class RedisServer:
    """A Redis of our own, on a socket in a folder of its own; what it holds is gone when it stops."""

    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    async def start(self) -> None:
        command = ("redis-server", "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--save", "")
        self.process = await asyncio.create_subprocess_exec(
            *command, "--dir", str(self.folder), stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while b"eady to accept connections" not in (line := await self.process.stdout.readline()):
                assert line, "redis-server ended before it was ready"

    async def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()
