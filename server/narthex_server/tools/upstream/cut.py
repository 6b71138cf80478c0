"""Large answers taken apart in a process of their own, which `Cutter` runs.

The C code that reads JSON holds Python's lock until it has the whole value, so a thread would stop the event loop too.

A frame is a length of 8 bytes, big-endian, and so many bytes. In comes one with an answer. Out goes one of JSON: the
`message` without what is passed on of its result, and the names of that as `parts`; then a frame for each part.
"""

import sys
from typing import Any, BinaryIO

from narthex_server.tools.exact_json import dump
from narthex_server.tools.upstream import jsonrpc
from narthex_server.tools.upstream.results import PASSED_ON, is_call_result

LENGTH = 8


def cut(line: bytes) -> list[bytes]:
    """The frames for the answer to a call; `message` is null for what is no message."""
    message = jsonrpc.read(line)
    parts: dict[str, bytes] = {}
    if message is not None and (result := message.get("result")) is not None:
        kept: dict[str, Any] = result
        if not is_call_result(result):
            kept = {}  # which is none either
        elif isinstance(result.get("content"), list):
            parts = {name: dump(result[name]) for name in PASSED_ON if result.get(name) is not None}
            kept = {name: value for name, value in result.items() if name not in PASSED_ON}
        message = {**message, "result": kept}
    return [dump({"message": message, "parts": list(parts)}), *parts.values()]


def serve(reading: BinaryIO, writing: BinaryIO) -> None:
    """Answers until there is nothing more to read."""
    while length := reading.read(LENGTH):
        for frame in cut(reading.read(int.from_bytes(length))):
            writing.write(len(frame).to_bytes(LENGTH))
            writing.write(frame)
        writing.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
