"""What a caller asks of a text model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from narthex_server.engine.request import AdapterUse, Dry, Sampling
from narthex_server.engine.sampling.logprobs import MOST_CANDIDATES
from narthex_server.errors import Violation, invalid
from narthex_server.text.assets import GenerationDefaults
from narthex_server.text.constraint import Constraint
from narthex_server.text.messages import Message, ToolSpec
from narthex_server.text.tokenizer import Tokenizer

T = TypeVar("T")
MOST_TOKENS = (1 << 32) - 1
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 1024
MAX_BREAKERS = 64
DEFAULT_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class DryOptions:
    """As the engine's `Dry`, with breakers as strings; None is the default."""

    multiplier: float | None = None
    base: float | None = None
    allowed_length: int | None = None
    window: int | None = None
    sequence_breakers: tuple[str, ...] = ()

    def resolve(self, tokenizer: Tokenizer) -> Dry:
        """With every value settled. Errors: InvalidRequest naming the fields out of range."""
        breakers, found = self.sequence_breakers or DEFAULT_BREAKERS, []
        if len(breakers) > MAX_BREAKERS:
            found.append(Violation("sampling.dry.sequence_breakers", f"at most {MAX_BREAKERS}, got {len(breakers)}"))
        if any(not 0 < len(breaker) <= MAX_STOP_CHARACTERS for breaker in breakers):
            limits = f"each must have 1 to {MAX_STOP_CHARACTERS} characters"
            found.append(Violation("sampling.dry.sequence_breakers", limits))
        plain = Dry()
        dry = Dry(
            _settle(self.multiplier, None, plain.multiplier),
            _settle(self.base, None, plain.base),
            _settle(self.allowed_length, None, plain.allowed_length),
            _settle(self.window, None, plain.window),
        )
        refuse((*found, *dry.validate()))
        return replace(dry, breakers=frozenset().union(*(tokenizer.ids_with(breaker) for breaker in breakers)))


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are drawn; None is the model's own default, or else that of `Sampling`."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    dry: DryOptions | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()

    def resolve(self, defaults: GenerationDefaults, tokenizer: Tokenizer) -> Sampling:
        """With every value settled. Errors: InvalidRequest naming the fields out of range."""
        plain = Sampling()
        sampling = Sampling(
            _settle(self.temperature, defaults.temperature, plain.temperature),
            _settle(self.top_k, defaults.top_k, plain.top_k),
            _settle(self.top_p, defaults.top_p, plain.top_p),
            _settle(self.min_p, defaults.min_p, plain.min_p),
            self.seed,
            _settle(self.frequency_penalty, None, plain.frequency_penalty),
            _settle(self.presence_penalty, None, plain.presence_penalty),
            _settle(self.repetition_penalty, defaults.repetition_penalty, plain.repetition_penalty),
            self.dry.resolve(tokenizer) if self.dry else None,
            self.logit_bias,
            self.allowed_token_ids,
        )
        refuse(sampling.validate())
        return sampling

    def nth(self, index: int) -> "SamplingOptions":
        """Those of one of several completions of a prompt: a seed is followed by the next ones."""
        return self if self.seed is None else replace(self, seed=(self.seed + index) % 2**64)


@dataclass(frozen=True, slots=True)
class StoppingOptions:
    """When generation ends; `max_tokens` None is what is left of the model's context.

    With `fit_context` that rest also bounds a given `max_tokens`, which would otherwise be refused. Neither a token
    nor a string ends anything before `min_tokens`.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    ignore_eos: bool = False
    fit_context: bool = False
    min_tokens: int = 0

    def validate(self, prefix: str = "stopping") -> tuple[Violation, ...]:
        """The fields at fault, as paths below `prefix`."""
        found = []
        if self.max_tokens is not None and not 0 < self.max_tokens <= MOST_TOKENS:
            found.append(Violation(f"{prefix}.max_tokens", f"must be 1 to {MOST_TOKENS}, got {self.max_tokens}"))
        if not 0 <= self.min_tokens <= (self.max_tokens or MOST_TOKENS):
            limits = f"must be 0 to {'max_tokens' if self.max_tokens else MOST_TOKENS}"
            found.append(Violation(f"{prefix}.min_tokens", f"{limits}, got {self.min_tokens}"))
        if len(self.stop) > MAX_STOPS:
            found.append(Violation(f"{prefix}.stop", f"at most {MAX_STOPS} strings, got {len(self.stop)}"))
        if any(not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in self.stop):
            found.append(Violation(f"{prefix}.stop", f"each must have 1 to {MAX_STOP_CHARACTERS} characters"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Scoring:
    """How many candidates come with each token's log probability; None asks for no log probabilities."""

    completion: int | None = None
    prompt: int | None = None

    def validate(self, prefix: str = "response") -> tuple[Violation, ...]:
        """The fields at fault, as paths below `prefix`."""
        named = (("logprobs", self.completion), ("prompt_logprobs", self.prompt))
        return tuple(
            Violation(f"{prefix}.{name}", f"must be between 0 and {MOST_CANDIDATES}, got {count}")
            for name, count in named
            if count is not None and not 0 <= count <= MOST_CANDIDATES
        )


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt to continue: text, tokenized with the model's own beginning, or token ids taken as they are.

    With `echo` the prompt's text comes first. `index` tells several completions of one prompt apart. `wanted_ids` are
    the fields that ask for token ids in the answer, which always has them unless the model is remote.
    """

    request_id: str
    prompt: str | tuple[int, ...]
    sampling: SamplingOptions = SamplingOptions()
    stopping: StoppingOptions = StoppingOptions()
    skip_special: bool = True
    adapters: tuple[AdapterUse, ...] = ()
    constraint: Constraint | None = None
    scoring: Scoring = Scoring()
    echo: bool = False
    index: int = 0
    wanted_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`mode` is auto, none or required; a `name` asks for that very tool."""

    mode: str = "auto"
    name: str = ""

    @property
    def forced(self) -> bool:
        return self.mode == "required" or bool(self.name)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation to continue by one turn; `template_options` are more variables for the chat template.

    A turn thinks for at most `max_thoughts` tokens, and what it says after that, or calls instead, fits `constraint`.
    """

    request_id: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    sampling: SamplingOptions = SamplingOptions()
    stopping: StoppingOptions = StoppingOptions()
    template_options: Mapping[str, object] = field(default_factory=dict)
    skip_special: bool = True
    adapters: tuple[AdapterUse, ...] = ()
    constraint: Constraint | None = None
    max_thoughts: int | None = None
    scoring: Scoring = Scoring()
    index: int = 0
    wanted_ids: tuple[str, ...] = ()


R = TypeVar("R", GenerateRequest, ChatRequest)


def nth(request: R, index: int) -> R:
    """The request of one of several completions, from 0; the first one scores the prompt for all."""
    scoring = replace(request.scoring, prompt=None) if index else request.scoring
    return replace(request, sampling=request.sampling.nth(index), scoring=scoring, index=index)


def check_choice(request: ChatRequest) -> None:
    """Errors: InvalidRequest for a choice that the tools do not allow."""
    choice = request.tool_choice
    if choice.forced and not request.tools:
        refuse((Violation("tool_choice", "asks for a call, but no tools are offered"),))
    if choice.name and choice.name not in {tool.name for tool in request.tools}:
        refuse((Violation("tool_choice", f"names {choice.name!r}, which is not among the tools offered"),))


def refuse(violations: Iterable[Violation]) -> None:
    """Raises InvalidRequest that names all of them, if there are any."""
    if found := tuple(violations):
        raise invalid(*found)


def _settle(asked: T | None, suggested: T | None, otherwise: T) -> T:
    return asked if asked is not None else suggested if suggested is not None else otherwise
