"""An MCP server over stdio that request threads share."""

import itertools
import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any, cast

from narthex_server.sync.locks import Locks


class PlainUpstream:
    """Writes requests in turns; a thread of its own reads the answers and hands each to whoever waits for it."""

    def __init__(self, command: Sequence[str], locks: Locks) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._table = locks.mutex("upstream")
        self._pipe = locks.mutex("upstream_pipe")
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._reader = threading.Thread(target=self._read, name="upstream", daemon=True)
        self._reader.start()
        self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "plain"}})

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The answer's result."""
        number, answer = next(self._numbers), queue.SimpleQueue[dict[str, Any]]()
        line = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"
        with self._table:
            self._waiting[number] = answer
        with self._pipe:
            pipe = cast(IO[bytes], self._process.stdin)
            pipe.write(line)
            pipe.flush()
        return cast(dict[str, Any], answer.get()["result"])

    def stop(self) -> None:
        cast(IO[bytes], self._process.stdin).close()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        for line in cast(IO[bytes], self._process.stdout):
            message = json.loads(line)
            with self._table:
                answer = self._waiting.pop(message["id"])
            answer.put(message)
