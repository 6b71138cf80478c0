"""What the lot has to know of one kind of work."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Protocol

from narthex.v1 import lot_pb2 as lot

from narthex_server.services.relay import Context


class Kind(Protocol):
    """A kind's requests are those of its streaming RPC, its events what that answers; Embed has one event.

    `name` is that of the fields of Work, WorkEvent and FetchResponse.
    """

    @property
    def name(self) -> str: ...

    def request(self, work: lot.Work) -> Any:
        """The request for submitted work."""
        ...

    def parse(self, data: bytes) -> Any:
        """A request, as it was kept."""
        ...

    def content(self, request: Any) -> Sequence[bytes]:
        """What makes two requests the same; not how they are to be treated."""
        ...

    def settle(self, request: Any) -> None:
        """Settles what would be drawn anew each time that the work is begun."""
        ...

    async def check(self, request: Any) -> bool:
        """Whether the work may be done twice, being done by the caller of the running RPC.

        Raises what the kind's own RPC would, as far as that can be seen without doing it.
        """
        ...

    def acted(self, request: Any, events: Sequence[Any]) -> bool:
        """Whether work that must not be done twice may have acted, which was begun and has come so far."""
        ...

    def run(self, request: Any, context: Context) -> AsyncGenerator[Any]:
        """Does it."""
        ...

    def waits(self, event: Any) -> bool:
        """Whether the work waits for an answer after this event."""
        ...

    def results(self, events: Sequence[Any]) -> Iterator[Any]:
        """What Fetch answers, in order."""
        ...
