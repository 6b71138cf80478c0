"""Processes of narthex."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

READY_S = 60


@contextlib.asynccontextmanager
async def started(module: str, *arguments: object, log: Path | None = None, **environ: str) -> AsyncIterator[dict]:
    """A process: its `pid` and the fields of its ready line; its standard error goes to `log` where that is given."""
    with contextlib.ExitStack() as files:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *map(str, arguments),
            stdout=asyncio.subprocess.PIPE, stderr=files.enter_context(log.open("w")) if log else None,
            env=os.environ | environ,
        )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), READY_S)).decode()
        assert " ready " in line, f"{line!r}\n{log.read_text() if log else ''}"
        yield {"pid": process.pid} | dict(part.split("=", 1) for part in line.split() if "=" in part)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.communicate(), READY_S)
        except TimeoutError:
            process.kill()
            await process.communicate()
