"""How remote engines are reached."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Answer(Protocol):
    """An HTTP answer whose body is still to come."""

    @property
    def status(self) -> int: ...

    @property
    def streams(self) -> bool:
        """Whether the body is a stream of events."""
        ...

    @property
    def retry_after(self) -> str:
        """In how many seconds to try again, or empty."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Errors: Unavailable."""
        ...


class Connection(Protocol):
    """An engine behind a URL; its methods may be called from one event loop."""

    def open(self, path: str, body: bytes | None = None) -> AbstractAsyncContextManager[Answer]:
        """Sends a request, GET without a body; leaving the block before the answer's end hangs up.

        `path` is relative to the URL, or with a `/` to its root without `/v1`. Errors: Unavailable.
        """
        ...

    async def close(self) -> None: ...
