"""A server that is measured from outside: a process, and how to stream from it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

READY_S = 120


class Server(Protocol):
    async def stream(self, prompt: Sequence[int], tokens: int) -> list[float]:
        """Generate exactly `tokens` greedily; when each came, by time.perf_counter."""
        ...


@contextlib.asynccontextmanager
async def process(
    command: Sequence[str | Path], log: Path, variables: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program whose errors go to `log`; ended and waited for at the end."""
    with log.open("w") as errors:
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=errors, env=dict(variables)
        )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.communicate()
