"""Texts to vectors."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from narthex_server.embedding.head import Pooling
from narthex_server.errors import Violation
from narthex_server.lot.units import Units
from narthex_server.pipelines.admitted import SLOTS
from narthex_server.pipelines.models import EmbedModel
from narthex_server.pipelines.request import refuse
from narthex_server.pipelines.tokens import SMALL

MAX_INPUTS = 2048
ONE: Units = MappingProxyType({SLOTS: 1})
_SHORTEST = 1e-12
"""Vectors are divided by no less than this: one of zeros stays one of zeros."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What to embed: texts, which `instruction` is put before, or token ids, which are taken as they are.

    `dimensions` 0 and `pooling` None are the model's own.
    """

    inputs: tuple[str | tuple[int, ...], ...]
    instruction: str = ""
    dimensions: int = 0
    normalize: bool = True
    pooling: Pooling | None = None
    truncate: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input [N, dimensions], in order, and how many tokens each had, 0 where only the total is known."""

    vectors: NDArray[np.float32]
    tokens: tuple[int, ...]
    total: int


def scaled(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [N, dimensions] to length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, _SHORTEST), np.float32)


class EmbedPipeline:
    """Makes vectors with one model."""

    def __init__(self, model: EmbedModel) -> None:
        self.model = model

    async def run(self, request: EmbedRequest) -> Embeddings:
        """The vectors of all inputs; cancelling it ends the work before its next batch.

        Errors: InvalidRequest that names the inputs at fault; then those of Pool.admit and of the embedder.
        """
        self._check(request)
        characters = sum(len(one) for one in request.inputs) + len(request.instruction) * len(request.inputs)
        if characters <= SMALL:
            texts = self._tokenized(request)
        else:
            texts = await asyncio.to_thread(self._tokenized, request)
        with await self.model.pool.admit(ONE):
            vectors = await self.model.handle.embed(texts, request.pooling)
        if request.dimensions:
            vectors = vectors[:, : request.dimensions]
        if request.normalize:
            vectors = scaled(vectors)
        tokens = tuple(len(text) for text in texts)
        return Embeddings(vectors, tokens, sum(tokens))

    def _check(self, request: EmbedRequest) -> None:
        found, own = [], self.model.handle.dimensions
        if not 1 <= len(request.inputs) <= MAX_INPUTS:
            found.append(Violation("inputs", f"must be 1 to {MAX_INPUTS}, got {len(request.inputs)}"))
        if not 0 <= request.dimensions <= own:
            found.append(
                Violation("dimensions", f"must be between 1 and {own}, or 0 for all, got {request.dimensions}")
            )
        for index, one in enumerate(request.inputs):
            if len(one) == 0:
                found.append(Violation(f"inputs[{index}]", "is empty"))
            elif not isinstance(one, str) and not 0 <= min(one) <= max(one) < self.model.vocab_size:
                description = f"each must be between 0 and {self.model.vocab_size - 1}"
                found.append(Violation(f"inputs[{index}].token_ids", description))
        refuse(tuple(found))

    def _tokenized(self, request: EmbedRequest) -> list[NDArray[np.int64]]:
        """The token ids of every input, cut where that is allowed. Errors: InvalidRequest for those too long."""
        limit, texts, found = self.model.max_context, [], []
        for index, one in enumerate(request.inputs):
            if isinstance(one, str):
                text = request.instruction + one
                text = text.lower() if self.model.lower_case else text
                ids: Sequence[int] = self.model.tokenizer.encode(text)
                if request.truncate and len(ids) > limit:
                    ids = self._shortened(text, ids)
            else:
                ids = one[:limit] if request.truncate else one
            if len(ids) > limit:
                found.append(
                    Violation(
                        f"inputs[{index}]", f"has {len(ids)} tokens, the model takes {limit}; shorten or truncate it"
                    )
                )
            elif not ids:
                found.append(Violation(f"inputs[{index}]", "has no tokens"))
            texts.append(np.array(ids, np.int64))
        refuse(tuple(found))
        return texts

    def _shortened(self, text: str, ids: Sequence[int]) -> Sequence[int]:
        """The text's tokens without the last ones, between the special tokens that the tokenizer put around them."""
        bare = self.model.tokenizer.encode(text, add_special=False)
        special = len(ids) - len(bare)
        before = next((start for start in range(special + 1) if ids[start : start + len(bare)] == bare), special)
        after = ids[before + len(bare) :]
        return [*ids[:before], *bare[: max(self.model.max_context - special, 0)], *after]
