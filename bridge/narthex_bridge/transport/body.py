"""The body of a request, read within bounds of size and time."""

import asyncio
from collections.abc import AsyncIterator

from narthex_bridge.http.refusal import Refusal, Refused
from narthex_bridge.transport.incoming import Incoming


class BodyReader:
    """Reads bodies of at most `max_bytes` that arrive within `timeout_s` seconds."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def read(self, incoming: Incoming) -> bytes:
        """The whole body of a POST. Raises Refused for one that is too large or too slow, ConnectionError if its
        client goes."""
        return b"".join([piece async for piece in self._pieces(incoming)]) if incoming.method == "POST" else b""

    async def _pieces(self, incoming: Incoming) -> AsyncIterator[bytes]:
        length = incoming.headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self._max_bytes):
            raise self._too_large()
        size, latest = 0, asyncio.get_running_loop().time() + self._timeout_s
        while True:
            try:
                async with asyncio.timeout_at(latest):
                    message = await incoming.receive()
            except TimeoutError:
                raise self._too_slow() from None
            if message["type"] == "http.disconnect":
                raise ConnectionError
            piece = message.get("body", b"")
            size += len(piece)
            if size > self._max_bytes:
                raise self._too_large()
            yield piece
            if not message.get("more_body", False):
                return

    def _too_large(self) -> Refused:
        text = f"The body is larger than {self._max_bytes} bytes."
        return Refused("body_size", Refusal(413, text, reason="BODY_TOO_LARGE"))

    def _too_slow(self) -> Refused:
        text = f"The body did not arrive within {self._timeout_s:g} s of its head."
        return Refused("body_time", Refusal(408, text, reason="BODY_TOO_SLOW"))
