"""What a caller asks of a text model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from narthex_server.engine.request import AdapterUse, Sampling
from narthex_server.errors import InvalidRequest, Violation
from narthex_server.text.assets import GenerationDefaults
from narthex_server.text.constraint import Constraint
from narthex_server.text.messages import Message, ToolSpec

T = TypeVar("T")
MOST_TOKENS = (1 << 32) - 1
MAX_STOPS, MAX_STOP_CHARACTERS = 16, 1024


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are drawn; None is the model's own default, or else that of `Sampling`."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None

    def resolve(self, defaults: GenerationDefaults) -> Sampling:
        """With every value settled. Errors: InvalidRequest naming the fields out of range."""
        plain = Sampling()

        def settle(asked: T | None, suggested: T | None, otherwise: T) -> T:
            return asked if asked is not None else suggested if suggested is not None else otherwise

        sampling = Sampling(
            settle(self.temperature, defaults.temperature, plain.temperature),
            settle(self.top_k, defaults.top_k, plain.top_k),
            settle(self.top_p, defaults.top_p, plain.top_p),
            settle(self.min_p, defaults.min_p, plain.min_p),
            self.seed,
        )
        refuse(sampling.validate())
        return sampling


@dataclass(frozen=True, slots=True)
class StoppingOptions:
    """When generation ends; `max_tokens` None is what is left of the model's context.

    With `fit_context` that rest also bounds a given `max_tokens`, which would otherwise be refused.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    ignore_eos: bool = False
    fit_context: bool = False

    def validate(self, prefix: str = "stopping") -> tuple[Violation, ...]:
        """The fields at fault, as paths below `prefix`."""
        found = []
        if self.max_tokens is not None and not 0 < self.max_tokens <= MOST_TOKENS:
            found.append(Violation(f"{prefix}.max_tokens", f"must be 1 to {MOST_TOKENS}, got {self.max_tokens}"))
        if len(self.stop) > MAX_STOPS:
            found.append(Violation(f"{prefix}.stop", f"at most {MAX_STOPS} strings, got {len(self.stop)}"))
        if any(not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in self.stop):
            found.append(Violation(f"{prefix}.stop", f"each must have 1 to {MAX_STOP_CHARACTERS} characters"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt to continue: text, tokenized with the model's own beginning, or token ids taken as they are."""

    request_id: str
    prompt: str | tuple[int, ...]
    sampling: SamplingOptions = SamplingOptions()
    stopping: StoppingOptions = StoppingOptions()
    skip_special: bool = True
    adapters: tuple[AdapterUse, ...] = ()
    constraint: Constraint | None = None


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


def refuse(violations: tuple[Violation, ...]) -> None:
    """Raises InvalidRequest if there are any."""
    if violations:
        text = "; ".join(f"{violation.field} {violation.description}" for violation in violations)
        raise InvalidRequest(text, violations=violations)
