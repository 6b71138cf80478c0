"""Which pipelines serve a model: the one place that chooses them by its kind."""

from collections.abc import AsyncGenerator, Sequence
from enum import Enum, auto
from typing import Protocol

from narthex_server.pipelines import tokens
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.embed import Embeddings, EmbedPipeline, EmbedRequest
from narthex_server.pipelines.events import ChatEvent, GenerateEvent
from narthex_server.pipelines.generate import GeneratePipeline
from narthex_server.pipelines.models import AnyEmbedder, AnyText, EmbedModel, Kind, Model, RemoteModel, TextModel
from narthex_server.pipelines.remote.chat import RemoteChat
from narthex_server.pipelines.remote.embed import RemoteEmbed
from narthex_server.pipelines.remote.generate import RemoteGenerate
from narthex_server.pipelines.remote.tokens import RemoteTokens
from narthex_server.pipelines.request import ChatRequest, GenerateRequest


class Chats(Protocol):
    """Continues conversations."""

    @property
    def takes_tools(self) -> bool:
        """Whether the model can be offered tools."""
        ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatEvent]:
        """Yields Started, then TextDelta, ReasoningDelta, ToolCallStarted and ToolCall, then one Finished."""
        ...

    async def check(self, request: ChatRequest) -> None:
        """Raises what `stream` would, as far as that can be seen without doing it."""
        ...


class Generates(Protocol):
    """Continues prompts."""

    def stream(self, request: GenerateRequest) -> AsyncGenerator[GenerateEvent]:
        """Yields Started, TextDelta, then one Finished."""
        ...

    async def check(self, request: GenerateRequest) -> None:
        """As of Chats."""
        ...


class Embeds(Protocol):
    """Makes vectors."""

    async def run(self, request: EmbedRequest) -> Embeddings:
        """The vectors of all inputs."""
        ...

    async def check(self, request: EmbedRequest) -> object:
        """As of Chats."""
        ...


class Tokens(Protocol):
    """Tells token ids."""

    async def encode(self, text: str, add_special: bool = True) -> tuple[int, ...]:
        """The ids of a text."""
        ...

    async def encode_chat(self, request: ChatRequest) -> tuple[int, ...]:
        """The ids of a conversation."""
        ...

    async def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids."""
        ...


class Ability(Enum):
    """What a model can be asked for."""

    GENERATE = auto()
    CHAT = auto()
    TOOLS = auto()
    REASONING = auto()
    CONSTRAINT = auto()
    LOGPROBS = auto()
    ADAPTERS = auto()
    EMBED = auto()


def chat(model: AnyText) -> Chats:
    """What continues conversations with a model."""
    return RemoteChat(model) if isinstance(model, RemoteModel) else ChatPipeline(model)


def generate(model: AnyText) -> Generates:
    """What continues prompts with a model."""
    return RemoteGenerate(model) if isinstance(model, RemoteModel) else GeneratePipeline(model)


def embed(model: AnyEmbedder) -> Embeds:
    """What makes vectors with a model."""
    return RemoteEmbed(model) if isinstance(model, RemoteModel) else EmbedPipeline(model)


def tokenize(model: AnyText) -> Tokens:
    """What tells a model's token ids."""
    return RemoteTokens(model) if isinstance(model, RemoteModel) else _OwnTokens(model)


def abilities(model: Model) -> tuple[Ability, ...]:
    """What a model can be asked for, now; of a remote one, what its API is for."""
    match model:
        case EmbedModel() | RemoteModel(kind=Kind.VECTORS):
            return (Ability.EMBED,)
        case RemoteModel():
            return (Ability.GENERATE, Ability.CHAT, Ability.TOOLS, Ability.CONSTRAINT)
    found = {
        Ability.GENERATE: True,
        Ability.LOGPROBS: True,
        Ability.CHAT: model.text.template is not None,
        Ability.TOOLS: tokens.supports_tools(model),
        Ability.REASONING: tokens.reasons(model),
        Ability.CONSTRAINT: model.grammars.possible,
        Ability.ADAPTERS: model.handle.adapts,
    }
    return tuple(ability for ability, there in found.items() if there)


class _OwnTokens:
    """Those of a model that runs here."""

    def __init__(self, model: TextModel) -> None:
        self._model = model

    async def encode(self, text: str, add_special: bool = True) -> tuple[int, ...]:
        return await tokens.encode(self._model, text, add_special)

    async def encode_chat(self, request: ChatRequest) -> tuple[int, ...]:
        return (await tokens.encode_chat(self._model, request)).ids

    async def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return await tokens.decode(self._model, ids, skip_special)
