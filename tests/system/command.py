"""Programs that tests run to their end."""

import asyncio
import subprocess
from pathlib import Path


async def ended(*command: object, cwd: Path | None = None, given: str = "") -> subprocess.CompletedProcess[str]:
    """How a program ended that got `given` on its standard input."""
    text = [str(part) for part in command]
    return await asyncio.to_thread(subprocess.run, text, cwd=cwd, input=given, capture_output=True, text=True)


async def done(*command: object, cwd: Path | None = None, given: str = "") -> str:
    """What a program says that has to succeed."""
    end = await ended(*command, cwd=cwd, given=given)
    assert end.returncode == 0, end.stdout + end.stderr
    return end.stdout + end.stderr
