"""EmbeddingService over the embed pipeline."""

import asyncio
from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import common_pb2 as common
from narthex.v1 import embedding_pb2 as wire

from narthex_server.embedding.head import Pooling
from narthex_server.errors import Violation
from narthex_server.pipelines import serving
from narthex_server.pipelines.embed import Embeddings, EmbedRequest
from narthex_server.pipelines.models import Models
from narthex_server.pipelines.request import refuse
from narthex_server.principal import REQUEST_ID
from narthex_server.services.call import check_options
from narthex_server.services.complete import complete

_POOLINGS = {
    wire.POOLING_UNSPECIFIED: None, wire.POOLING_MEAN: Pooling.MEAN, wire.POOLING_FIRST: Pooling.FIRST,
    wire.POOLING_LAST: Pooling.LAST,
}  # fmt: skip
_BYTES_OF_A_NUMBER = 4
_MANY = 1 << 15
"""Numbers that are turned into a message at once (about a millisecond); more of them in a thread."""

Context = ServicerContext[Any, Any]


@complete(wire.DESCRIPTOR.services_by_name["EmbeddingService"])
class EmbeddingService:
    """Makes vectors; an answer has at most `max_bytes`, as the channel takes it."""

    def __init__(self, models: Models, max_bytes: int) -> None:
        self._models = models
        self._max_bytes = max_bytes

    async def Embed(self, request: wire.EmbedRequest, context: Context) -> wire.EmbedResponse:
        check_options(request.options, context)
        asked = _request(request.spec)
        async with self._models.use_embedder(request.spec.model) as model:
            self._check_size(asked, model.dimensions)
            made = await serving.embed(model).run(asked)
        self._check_size(asked, made.vectors.shape[1])  # which of a remote model is not known before
        if made.vectors.size <= _MANY:
            return _answer(model.name, made)
        return await asyncio.to_thread(_answer, model.name, made)

    def _check_size(self, asked: EmbedRequest, dimensions: int) -> None:
        size = (asked.dimensions or dimensions) * _BYTES_OF_A_NUMBER
        if size and len(asked.inputs) * size > self._max_bytes:
            most = self._max_bytes // size
            description = f"their vectors exceed a message of {self._max_bytes} bytes; send at most {most} at a time"
            refuse((Violation("inputs", description),))


def _answer(model: str, made: Embeddings) -> wire.EmbedResponse:
    vectors = zip(made.vectors, made.tokens, strict=True)
    return wire.EmbedResponse(
        request_id=REQUEST_ID.get(),
        model=model,
        embeddings=[wire.Embedding(values=values.tolist(), tokens=tokens) for values, tokens in vectors],
        usage=common.Usage(prompt_tokens=made.total),
    )


def _request(spec: wire.EmbedSpec) -> EmbedRequest:
    if spec.pooling not in _POOLINGS:
        refuse((Violation("pooling", f"{spec.pooling} is not known to this server"),))
    return EmbedRequest(
        inputs=tuple(
            tuple(one.token_ids.ids) if one.WhichOneof("input") == "token_ids" else one.text for one in spec.inputs
        ),
        instruction=spec.instruction,
        dimensions=spec.dimensions,
        normalize=spec.normalize if spec.HasField("normalize") else True,
        pooling=_POOLINGS[spec.pooling],
        truncate=spec.truncate,
    )
