"""POST /v1/embeddings."""

import asyncio
import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import embedding_pb2 as wire

from narthex_bridge.faces.body import LARGEST_WHOLE, Fields, fields
from narthex_bridge.faces.options import call_options
from narthex_bridge.faces.policy import settle
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.server.inference import Inference

_MANY = 1 << 15
"""Numbers that are written at once (some milliseconds); more of them in a thread, vector by vector."""


class EmbeddingsEndpoint:
    """Answers with the vector of each input, as numbers or as base64 of little-endian float32."""

    def __init__(self, inference: Inference, work: Work) -> None:
        self._inference = inference
        self._work = work

    async def post(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        packed = body.one_of("encoding_format", "float", "base64") == "base64"
        spec = wire.EmbedSpec(
            model=body.text("model") or "",
            inputs=_inputs(body),
            dimensions=body.whole("dimensions") or 0,
            truncate=bool(body.flag("truncate_sequence")),
        )
        asked, headers = wire.EmbedRequest(spec=spec, options=call_options(http, body)), settle(body)
        reply = await self._work.run(self._inference.embed(http.caller, http.request_id, asked))
        many = sum(len(one.values) for one in reply.embeddings) > _MANY
        made = await asyncio.to_thread(embeddings, reply, packed) if many else embeddings(reply, packed)
        return HttpResponse(200, made, headers=headers)


def _inputs(body: Fields) -> list[wire.EmbedInput]:
    """Of a string, strings, one input's tokens or several inputs' tokens."""
    given = body.any("input")
    if given is None:
        raise body.fault("input", "is missing")
    several: Sequence[Any] = given if isinstance(given, list) and not (given and _is_token(given[0])) else [given]
    return [_input(body, one) for one in several]


def _input(body: Fields, given: Any) -> wire.EmbedInput:
    if isinstance(given, str):
        return wire.EmbedInput(text=given)
    if isinstance(given, list) and all(map(_is_token, given)):
        return wire.EmbedInput(token_ids=common.TokenIds(ids=given))
    raise body.fault("input", "must be a string, an array of strings, or tokens as integers")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_WHOLE


def embeddings(reply: wire.EmbedResponse, packed: bool) -> bytes:
    """The body of an answer."""
    tokens = reply.usage.prompt_tokens
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(one.values) if packed else _listed(one.values)}
        for index, one in enumerate(reply.embeddings)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "data": data, "model": reply.model, "usage": usage})


def _listed(values: Sequence[float]) -> orjson.Fragment:
    return orjson.Fragment(orjson.dumps(list(values)))


def _packed(values: Sequence[float]) -> str:
    numbers = array("f", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode()
