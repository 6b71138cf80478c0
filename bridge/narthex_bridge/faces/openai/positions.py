"""How probable tokens were, as text completions show it."""

from collections.abc import Iterable
from typing import Any

from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.openai.logprobs import LEAST, text_of


class Positions:
    """The tokens of one completion, with the places of their texts in it."""

    def __init__(self) -> None:
        self._offset = 0

    def echo(self, prompt: wire.PromptInfo, text: str) -> dict[str, Any]:
        """Those of the prompt; nothing says how probable the first one is, whose text is what the others leave."""
        rest = prompt.logprobs[1:]
        following = "".join(text_of(position.chosen.token) for position in rest)
        first = text[: len(text) - len(following)] if text.endswith(following) else ""
        made = self._shape([first], [None], [None])
        for name, values in self.tell(rest).items():
            made[name] += values
        return made

    def tell(self, positions: Iterable[common.PositionLogprobs]) -> dict[str, Any]:
        """Those that come next."""
        found = list(positions)
        return self._shape(
            [text_of(position.chosen.token) for position in found],
            [max(position.chosen.logprob, LEAST) for position in found],
            [{text_of(one.token): max(one.logprob, LEAST) for one in position.candidates} for position in found],
        )

    def _shape(
        self, tokens: list[str], logprobs: list[float | None], tops: list[dict[str, float] | None]
    ) -> dict[str, Any]:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}
