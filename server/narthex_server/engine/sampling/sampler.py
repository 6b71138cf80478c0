"""How one request's tokens are chosen, from the logits after each of them."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import EngineRequest
from narthex_server.engine.sampling.allowed import AllowedTokens
from narthex_server.engine.sampling.bias import LogitBias
from narthex_server.engine.sampling.draw import BadLogits, sample
from narthex_server.engine.sampling.dry import DryPenalty
from narthex_server.engine.sampling.logprobs import Distribution, PositionLogprobs
from narthex_server.engine.sampling.minimum import MinimumLength
from narthex_server.engine.sampling.penalties import Penalties
from narthex_server.errors import InvalidRequest


class Processor(Protocol):
    """Something that changes how probable tokens are, by the tokens so far alone.

    It may keep what follows from them, for they only ever grow from one call to the next.
    """

    def apply(self, logits: Logits, tokens: NDArray[np.int64]) -> None:
        """Change logits [vocab] in place; `tokens` are all so far, those of the prompt first."""
        ...


class Sampler:
    """Chooses the tokens of one request: processors in their order, then the grammar, then the draw.

    Its generator is its own, so that a seed gives the same tokens whatever else is in the batch; each draw takes one
    number of it or none, so that a token costs the same whether it was guessed before or not.
    """

    __slots__ = ("_candidates", "_generator", "_grammar", "_minimum", "_processors", "_sampling", "logprobs")

    def __init__(self, request: EngineRequest) -> None:
        self._sampling = request.sampling
        self._processors = tuple(processors(request))
        self._grammar = request.grammar
        self._minimum = MinimumLength(request) if request.min_tokens else None
        self._generator = np.random.Generator(np.random.PCG64(request.sampling.seed))
        self._candidates = request.logprobs
        self.logprobs: PositionLogprobs | None = None
        """Of the last token that was chosen, if the request asked for them."""

    def choose(self, logits: Logits, tokens: NDArray[np.int64]) -> int:
        """The token after `tokens`; changes `logits` [vocab]. Errors: BadLogits, InvalidRequest if none may come."""
        if self._candidates is None:
            return self._choose(logits, tokens)
        model = Distribution(logits.copy())
        token = self._choose(logits, tokens)
        self.logprobs = model.position(token, self._candidates)
        return token

    def _choose(self, logits: Logits, tokens: NDArray[np.int64]) -> int:
        for processor in self._processors:
            processor.apply(logits, tokens)
        if self._grammar is not None:
            self._grammar.mask(logits)
        if self._minimum is not None:
            self._minimum.mask(logits, len(tokens))
        try:
            token = sample(logits, self._sampling, self._generator)
        except BadLogits:
            if self._sampling.allowed_token_ids and np.isneginf(logits).all():
                raise InvalidRequest(
                    "sampling.allowed_token_ids leave no token that may come next; allow more of them",
                    reason="NO_TOKEN_ALLOWED",
                ) from None
            raise
        if self._grammar is not None:
            self._grammar.accept(token)
        return token


def processors(request: EngineRequest) -> Iterator[Processor]:
    """Those that a request asks for, in their order."""
    sampling = request.sampling
    if sampling.dry is not None and sampling.dry.multiplier > 0:
        yield DryPenalty(sampling.dry)
    if (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty) != (0, 0, 1):
        yield Penalties(sampling, len(request.prompt))
    if sampling.logit_bias:
        yield LogitBias(sampling.logit_bias)
    if sampling.allowed_token_ids:
        yield AllowedTokens(sampling.allowed_token_ids)
