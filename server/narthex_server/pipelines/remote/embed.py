"""Texts to vectors, by a remote engine."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import Cancelled, Violation
from narthex_server.pipelines.call import Aborted
from narthex_server.pipelines.embed import Embeddings, EmbedRequest, scaled
from narthex_server.pipelines.models import RemoteModel
from narthex_server.pipelines.remote.body import embedding_body
from narthex_server.pipelines.request import refuse

MOST_DIMENSIONS = 1 << 16
_MANY = 1 << 15
"""Numbers that are read at once (about a millisecond); more of them in a thread."""


class RemoteEmbed:
    """Makes vectors with one remote model."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model

    async def run(self, request: EmbedRequest) -> Embeddings:
        """As of EmbedPipeline; how many tokens there were is known of all inputs together."""
        handle, began, outcome, tokens = self._model.handle, time.monotonic(), "error", 0
        body = embedding_body(request, self._model.name, await handle.known())
        try:
            async with handle.call("") as call:
                with handle.exchange():
                    made = await handle.ask(call, "embeddings", body)
                    vectors = await self._read(made, len(request.inputs))
            tokens, outcome = _tokens(made), "ok"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Aborted as error:
            raise Cancelled("the model is not served any more") from error
        finally:
            with handle.unharmed():
                handle.observer.on_embedded(len(request.inputs), tokens, outcome, time.monotonic() - began)
        handle.dimensions = vectors.shape[1]
        if request.dimensions > vectors.shape[1]:
            most = f"must be between 1 and {vectors.shape[1]}, or 0 for all, got {request.dimensions}"
            refuse((Violation("dimensions", most),))
        vectors = scaled(vectors[:, : request.dimensions or None])
        return Embeddings(vectors, (0,) * len(vectors) if len(vectors) > 1 else (tokens,), tokens)

    async def _read(self, made: Any, count: int) -> NDArray[np.float32]:
        """The vectors [count, dimensions]. Errors: Unavailable where they are not what was asked for."""
        entries = made.get("data") if isinstance(made, Mapping) else None
        rows: list[Any] = [None] * count
        for at, entry in enumerate(entries if isinstance(entries, list) else ()):
            index = entry.get("index", at) if isinstance(entry, Mapping) else None
            if type(index) is int and 0 <= index < count:
                rows[index] = entry.get("embedding")
        size = len(rows[0]) if isinstance(rows[0], list) else 0
        if not 0 < size <= MOST_DIMENSIONS or any(not isinstance(row, list) or len(row) != size for row in rows):
            raise self._model.handle.refusals.broken(f"sent no {count} vectors of one size")
        try:
            vectors = await asyncio.to_thread(_array, rows) if count * size > _MANY else _array(rows)
        except (ValueError, TypeError, OverflowError) as error:
            raise self._model.handle.refusals.broken("sent vectors that are no numbers") from error
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise self._model.handle.refusals.broken("sent vectors that are no rows of finite numbers")
        return vectors


def _array(rows: list[list[Any]]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is looked for
        return np.array(rows, np.float32)


def _tokens(made: Mapping[str, Any]) -> int:
    usage = made.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, Mapping) else 0
    return tokens if type(tokens) is int and 0 <= tokens < 2**31 else 0
