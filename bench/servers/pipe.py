"""A server over stdio, and a client of it that does nothing but write lines and read lines: its ceiling."""

import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import orjson

from bench.servers.gateway import spread


class Pipe:
    """Asks for one call after the other, so many of them under way; blocks while it does."""

    def __init__(self, command: Sequence[str]) -> None:
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.communicate()

    def rate(self, calls: int, under_way: int) -> dict[str, Any]:
        """Calls a second, and the time of one call."""
        assert self._server.stdin is not None and self._server.stdout is not None
        to, answers = self._server.stdin, self._server.stdout
        begun: dict[int, int] = {}
        took: list[int] = []
        start = time.perf_counter()
        for number in range(calls + under_way):
            if number >= under_way:
                answer = orjson.loads(answers.readline())
                took.append(time.perf_counter_ns() - begun.pop(answer["id"]))
            if number < calls:
                begun[number] = time.perf_counter_ns()
                params = {"name": "echo", "arguments": {"text": "hello"}}
                request = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
                to.write(orjson.dumps(request) + b"\n")
                to.flush()
        return {"calls_per_second": round(calls / (time.perf_counter() - start)), **spread(took)}
