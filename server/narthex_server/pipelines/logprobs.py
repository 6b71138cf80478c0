"""Log probabilities, with what their tokens look like."""

from collections.abc import Iterable

from narthex_server.engine.sampling import logprobs as engine
from narthex_server.pipelines.events import PositionLogprobs, TokenLogprob
from narthex_server.text.tokenizer import Tokenizer


class Speller:
    """Adds to each token its bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def positions(self, scored: Iterable[engine.PositionLogprobs]) -> tuple[PositionLogprobs, ...]:
        return tuple(
            PositionLogprobs(self._token(one.chosen), tuple(self._token(token) for token in one.candidates))
            for one in scored
        )

    def _token(self, scored: engine.Logprob) -> TokenLogprob:
        return TokenLogprob(scored.token, self._tokenizer.piece(scored.token), scored.logprob, scored.rank)
