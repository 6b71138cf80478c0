"""A model as the text pipeline sees it."""

from dataclasses import dataclass, field

from narthex_server.text.assets import TextAssets
from narthex_server.text.grammar import Grammars

from bench.peers.plain.engine import PlainEngine


@dataclass(frozen=True, slots=True)
class PlainModel:
    """In the shape of a TextModel, whose requests go to the engine at once: they wait in its own line."""

    name: str
    engine: PlainEngine
    text: TextAssets
    grammars: Grammars = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        grammars = Grammars(self.text.tokenizer, self.text.eos_ids, self.vocab_size)
        object.__setattr__(self, "grammars", grammars)

    @property
    def handle(self) -> PlainEngine:
        return self.engine

    @property
    def vocab_size(self) -> int:
        return self.engine.vocab_size

    @property
    def max_context(self) -> int:
        return self.engine.max_context

    def abort(self, request_id: str, index: int | None = None) -> bool:
        return self.engine.abort(request_id, index)
