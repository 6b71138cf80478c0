"""Vectors to make."""

from collections.abc import AsyncGenerator, Iterator, Sequence

from narthex.v1 import embedding_pb2 as wire
from narthex.v1 import lot_pb2 as lot

from narthex_server.services.embedding import EmbeddingService
from narthex_server.services.relay import Context


class EmbedWork:
    """As Embed, whose answer is the only event."""

    name = "embed"

    def __init__(self, service: EmbeddingService) -> None:
        self._service = service

    def request(self, work: lot.Work) -> wire.EmbedRequest:
        return wire.EmbedRequest(spec=work.embed)

    def parse(self, data: bytes) -> wire.EmbedRequest:
        return wire.EmbedRequest.FromString(data)

    def content(self, request: wire.EmbedRequest) -> Sequence[bytes]:
        return (request.spec.SerializeToString(deterministic=True),)

    def settle(self, request: wire.EmbedRequest) -> None:
        """Nothing of it is drawn."""

    async def check(self, request: wire.EmbedRequest) -> bool:
        await self._service.check(request.spec)
        return True

    def acted(self, request: wire.EmbedRequest, events: Sequence[wire.EmbedResponse]) -> bool:
        return False

    async def run(self, request: wire.EmbedRequest, context: Context) -> AsyncGenerator[wire.EmbedResponse]:
        yield await self._service.Embed(request, context)

    def waits(self, event: wire.EmbedResponse) -> bool:
        return False

    def results(self, events: Sequence[wire.EmbedResponse]) -> Iterator[wire.EmbedResponse]:
        yield events[-1]
