"""How one request's tokens are chosen, from the logits after each of them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.draw import sample
from narthex_server.engine.request import EngineRequest


class Processor(Protocol):
    """Something that changes how probable tokens are."""

    def apply(self, logits: Logits, tokens: NDArray[np.int64]) -> None:
        """Change logits [vocab] in place; `tokens` are all so far, those of the prompt first."""
        ...


class Sampler:
    """Chooses the tokens of one request: processors in their order, then the grammar, then the draw.

    Its generator is its own, so that a seed gives the same tokens whatever else is in the batch; each draw takes one
    number of it or none, so that a token costs the same whether it was guessed before or not.
    """

    __slots__ = ("_generator", "_grammar", "_processors", "_sampling")

    def __init__(self, request: EngineRequest, processors: Sequence[Processor] = ()) -> None:
        self._sampling = request.sampling
        self._processors = tuple(processors)
        self._grammar = request.grammar
        self._generator = np.random.Generator(np.random.PCG64(request.sampling.seed))

    def choose(self, logits: Logits, tokens: NDArray[np.int64]) -> int:
        """The token after `tokens`; changes `logits` [vocab]. Errors: BadLogits."""
        for processor in self._processors:
            processor.apply(logits, tokens)
        if self._grammar is None:
            return sample(logits, self._sampling, self._generator)
        self._grammar.mask(logits)
        token = sample(logits, self._sampling, self._generator)
        self._grammar.accept(token)
        return token
