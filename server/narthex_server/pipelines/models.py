"""The models that are being served."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import InitVar, dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar, TypeVar, cast

from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.engine.handle import EngineHandle
from narthex_server.errors import FailedPrecondition, InvalidRequest, NarthexError, NotFound
from narthex_server.lot.limits import Limits
from narthex_server.lot.pool import Pool
from narthex_server.pipelines.admitted import SLOTS, AdmittedEngine, capacity
from narthex_server.pipelines.remote.handle import RemoteHandle
from narthex_server.text.assets import TextAssets
from narthex_server.text.compiling import Compiling
from narthex_server.text.grammar import Grammars
from narthex_server.text.tokenizer import Tokenizer

EMBEDDING_SLOTS = 64
"""Requests that an embedder works on at once where nobody says how many: it takes turns and mixes their texts."""


class Kind(Enum):
    """What a model is for; the value says it in a sentence about one."""

    TEXT = "generates text"
    VECTORS = "makes embeddings"


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts for people: the family, how many parameters, how they are stored and computed, and where."""

    model_type: str = ""
    parameters: int = 0
    quantization: str = ""
    compute: str = ""
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class TextModel:
    """A text model: its engine, what it needs to read and write text, and the folders of its adapters by their names.

    Requests go to `engine`, where they wait for their turn at the `pool`, which is the model's own if none is given.
    While it is not in memory its engine takes no requests; all else works.
    """

    kind: ClassVar[Kind] = Kind.TEXT
    loaded: ClassVar[bool] = True

    name: str
    handle: EngineHandle
    text: TextAssets
    info: ModelInfo = ModelInfo()
    adapters: dict[str, Path] = field(default_factory=dict)
    pool: Pool | None = None
    engine: AdmittedEngine = field(init=False, repr=False, compare=False)
    grammars: Grammars = field(init=False, repr=False, compare=False)
    compiling: InitVar[Compiling | None] = None

    def __post_init__(self, compiling: Compiling | None) -> None:
        grammars = Grammars(self.text.tokenizer, self.text.eos_ids, self.handle.vocab_size, compiling)
        object.__setattr__(self, "grammars", grammars)
        pool = self.pool or Pool(f"model/{self.name}", capacity(self.handle), Limits(gives_way=True))
        object.__setattr__(self, "engine", AdmittedEngine(self.handle, pool))

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """Ends all requests of an id, or that of one index, also those that wait; False if there is none."""
        return self.engine.abort(request_id, index)

    @property
    def failure(self) -> str:
        """Why it cannot be used, empty where it can: a model that is loaded works."""
        return ""

    @property
    def max_context(self) -> int:
        """Tokens that prompt and completion may have together."""
        return self.handle.max_context

    @property
    def vocab_size(self) -> int:
        return self.handle.vocab_size

    @property
    def slots(self) -> int:
        """Requests that it works on at once."""
        return self.handle.slots


@dataclass(frozen=True, slots=True)
class EmbedModel:
    """An embedder; `prompts` are the instructions that its author gives, by name.

    Requests wait for their turn at the `pool`.
    """

    kind: ClassVar[Kind] = Kind.VECTORS
    loaded: ClassVar[bool] = True

    name: str
    handle: EmbedderHandle
    tokenizer: Tokenizer
    vocab_size: int
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    info: ModelInfo = ModelInfo()
    pool: Pool = field(default_factory=lambda: Pool("model", {SLOTS: EMBEDDING_SLOTS}), repr=False, compare=False)

    @property
    def failure(self) -> str:
        """As of a text model."""
        return ""

    @property
    def dimensions(self) -> int:
        """Numbers of a vector."""
        return self.handle.dimensions

    @property
    def max_context(self) -> int:
        """Tokens that a text may have, special ones included."""
        return self.handle.max_len

    @property
    def slots(self) -> int:
        """Requests that it works on at once, batch by batch in turns."""
        return 1


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model that another server runs, of either kind; what it says of itself is 0 or empty while that is not known.

    `loaded` tells whether a model takes memory here that it could give back.
    """

    loaded: ClassVar[bool] = False

    name: str
    kind: Kind
    handle: RemoteHandle

    def abort(self, request_id: str) -> bool:
        """Ends all requests of an id, also those that wait; False if there is none."""
        return self.handle.abort(request_id)

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(parameters=self.handle.facts.parameters, device="remote")

    @property
    def failure(self) -> str:
        """Why the other server cannot be used, as it was the last time that it was asked."""
        return self.handle.failure

    @property
    def dimensions(self) -> int:
        """Numbers of a vector; 0 before the first one."""
        return self.handle.dimensions

    @property
    def max_context(self) -> int:
        return self.handle.facts.max_context

    @property
    def vocab_size(self) -> int:
        return self.handle.facts.vocab_size

    @property
    def slots(self) -> int:
        """Requests that are sent to it at once."""
        return self.handle.slots


AnyText = TextModel | RemoteModel
AnyEmbedder = EmbedModel | RemoteModel
Model = TextModel | EmbedModel | RemoteModel
M = TypeVar("M", TextModel, AnyText, AnyEmbedder)


class Models:
    """Models of both kinds by name; an empty name is the `default` where that is of the kind, or else the only one."""

    def __init__(self, default: str = "") -> None:
        self._models: dict[str, Model] = {}
        self._default = default

    def add(self, model: Model) -> None:
        """Serves `model` in place of one of the same name."""
        self._models[model.name] = model

    def remove(self, name: str) -> Model:
        """Ends serving a model; stopping its engine is the caller's business. Errors: NotFound."""
        model = self.find(name)
        del self._models[model.name]
        return model

    @asynccontextmanager
    async def use(self, name: str = "") -> AsyncIterator[AnyText]:
        """The text model of a name, which stays in memory while the block runs. Errors: as `get`."""
        async with self._held(self.get(name)) as model:
            yield model

    @asynccontextmanager
    async def use_local(self, name: str = "") -> AsyncIterator[TextModel]:
        """As `use`, of those that run in this process. Errors: as `local`."""
        async with self._held(self.local(name)) as model:
            yield model

    @asynccontextmanager
    async def use_embedder(self, name: str = "") -> AsyncIterator[AnyEmbedder]:
        """The embedder of a name, which stays in memory while the block runs. Errors: as `get`."""
        async with self._held(self.embedder(name)) as model:
            yield model

    def get(self, name: str = "") -> AnyText:
        """The text model of a name, for what needs no engine.

        Errors: NotFound, listing what there is; FailedPrecondition for a model of the other kind; InvalidRequest for an
        empty name that could mean several.
        """
        return cast(AnyText, self._pick(name, Kind.TEXT))

    def local(self, name: str = "") -> TextModel:
        """The text model of a name that runs in this process. Errors: as `get`; FailedPrecondition for a remote one."""
        model = self.get(name)
        if isinstance(model, RemoteModel):
            raise FailedPrecondition(
                f"model {model.name!r} is remote: adapters belong to the server that runs it; load them there",
                reason="REMOTE_MODEL",
                metadata={"model": model.name},
            )
        return model

    def embedder(self, name: str = "") -> AnyEmbedder:
        """The embedder of a name, for what needs no engine. Errors: as `get`."""
        return cast(AnyEmbedder, self._pick(name, Kind.VECTORS))

    def find(self, name: str = "") -> Model:
        """The model of a name, of whatever kind. Errors: as `get`, the kind apart."""
        if not name:
            only = next(iter(self._models)) if len(self._models) == 1 else ""
            name = self._default if self._default in self._models else only
        if (model := self._models.get(name)) is None:
            raise self._missing(name, tuple(self._models), "")
        return model

    @property
    def default(self) -> str:
        """The text model that an empty name stands for; empty if there is none."""
        return self._default_of(Kind.TEXT)

    def is_default(self, model: Model) -> bool:
        """Whether an empty name stands for this model where one of its kind is needed."""
        return model.name == self._default_of(model.kind)

    def of(self, kind: Kind) -> tuple[Model, ...]:
        """All models of a kind."""
        return tuple(model for model in self._models.values() if model.kind is kind)

    def __iter__(self) -> Iterator[Model]:
        return iter(tuple(self._models.values()))

    def __len__(self) -> int:
        return len(self._models)

    @asynccontextmanager
    async def _held(self, model: M) -> AsyncIterator[M]:
        """A model as long as it is used: these are always there."""
        yield model

    def _default_of(self, kind: Kind) -> str:
        names = [name for name, model in self._models.items() if model.kind is kind]
        return self._default if self._default in names else names[0] if len(names) == 1 else ""

    def _pick(self, name: str, kind: Kind) -> Model:
        name, known = name or self._default_of(kind), tuple(model.name for model in self.of(kind))
        model = self._models.get(name)
        if model is None:
            raise self._missing(name, known, f" that {kind.value}")
        if model.kind is not kind:
            others = ", ".join(known) or "there is none"
            raise FailedPrecondition(
                f"model {name!r} {model.kind.value}; needed is one that {kind.value}: {others}",
                reason="WRONG_KIND_OF_MODEL",
                metadata={"model": name},
            )
        return model

    def _missing(self, name: str, known: Sequence[str], kind: str) -> NarthexError:
        if not name and known:
            return InvalidRequest(f"name one of the models{kind}: {', '.join(known)}", reason="MODEL_REQUIRED")
        what = f"there is no model {name!r}" if name else f"this server has no model{kind}"
        served = ", ".join(self._models) or "none"
        return NotFound(f"{what}; served are: {served}", reason="MODEL_NOT_FOUND", metadata={"model": name})
