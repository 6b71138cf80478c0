"""Large answers to calls, read without the event loop having to wait."""

import asyncio
import sys
from contextlib import suppress
from typing import Any

from narthex_server.tools.exact_json import Dumped, parse
from narthex_server.tools.upstream.cut import LENGTH
from narthex_server.tools.upstream.jsonrpc import Message

AT_ONCE = 256 * 1024
"""Bytes up to which an answer is read on the event loop, in some milliseconds."""

_CHUNK = 1024 * 1024


class Cutter:
    """A process that starts with the first large answer and is there for one at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def cut(self, line: bytes) -> Message | None:
        """The response in `line`, what is passed on of its result as Dumped; None for what is no message.

        Raises:
            ValueError: the process did not survive it, or cannot be started.
        """
        try:
            process = self._process = self._process or await _started()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(len(line).to_bytes(LENGTH))
            process.stdin.write(line)
            await process.stdin.drain()
            head = parse(await _frame(process.stdout))
            parts = {name: Dumped(await _frame(process.stdout)) for name in head["parts"]}
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise ValueError(f"the process that reads large answers has gone: {type(error).__name__}") from None
        message: dict[str, Any] | None = head["message"]
        if message is not None and parts:
            message["result"].update(parts)
        return message

    async def close(self) -> None:
        """The process is gone on return; the next answer gets another."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def _started() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "narthex_server.tools.upstream.cut"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_CHUNK,
        start_new_session=True,  # an interrupt from the terminal is ours; the end of its input ends it
    )


async def _frame(reading: asyncio.StreamReader) -> bytes:
    return await reading.readexactly(int.from_bytes(await reading.readexactly(LENGTH)))
