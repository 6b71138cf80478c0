"""A request while it runs."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from narthex_server.engine.adapters import Mixture
from narthex_server.engine.decoder import Logits
from narthex_server.engine.lookup import Lookup
from narthex_server.engine.observer import RequestReport
from narthex_server.engine.request import EngineRequest, Usage
from narthex_server.engine.sampling.logprobs import ScoredPrompt
from narthex_server.engine.sampling.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Leader:
    """A sequence that is computing the first `common` tokens of another one, too."""

    sequence: "Sequence"
    common: int


class Sequence:
    """The tokens of one request: `length` are known, of which `cached` are in its slot; times are monotonic seconds.

    `key` is its own, also where a caller uses a request id again; only sequences of equal `kind` share cached prefixes.
    Nothing of it is computed while it has a `leader`. What it has drawn, its sampler and its lookup outlive its slot.
    `yielded`: how many urgent requests it has let go before it.
    """

    __slots__ = (
        "_shared",
        "accepted",
        "admitted",
        "cached",
        "drafted",
        "first_token",
        "gaps",
        "key",
        "last_token",
        "leader",
        "length",
        "lookup",
        "mixture",
        "preempted",
        "request",
        "reused",
        "sampler",
        "scored",
        "slot",
        "submitted",
        "tokens",
        "yielded",
    )

    def __init__(
        self, key: int, request: EngineRequest, submitted: float, prefix_class: int = 0, mixture: Mixture | None = None
    ) -> None:
        self.key = key
        self._shared = (prefix_class, mixture.key if mixture else ())
        asked = request.prompt_logprobs
        self.scored = None if asked is None else ScoredPrompt(request.prompt, asked)
        self.mixture = mixture
        self.request = request
        self.tokens = np.empty(len(request.prompt) + request.max_tokens, np.int64)
        self.length = len(request.prompt)
        self.tokens[: self.length] = request.prompt
        self.cached = 0
        self.reused = 0
        self.slot = -1
        self.leader: Leader | None = None
        self.lookup: Lookup | None = None
        self.preempted = False
        self.yielded = 0
        self.drafted = self.accepted = 0
        self.sampler = Sampler(request)
        self.submitted = submitted
        self.admitted: float | None = None
        self.first_token: float | None = None
        self.last_token = submitted
        self.gaps: list[float] = []

    @property
    def kind(self) -> Hashable:
        """A prompt that is scored is computed whole: until then it shares no prefix with anybody."""
        return self._shared if self.scored is None or self.scored.complete else (self._shared, self.key)

    @property
    def pending(self) -> int:
        """Known tokens that are not cached yet; 1 means that the sequence can join the decoding rows."""
        return self.length - self.cached

    @property
    def generated(self) -> int:
        return self.length - len(self.request.prompt)

    @property
    def usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.generated, self.reused, self.drafted, self.accepted)

    def choose(self, logits: Logits) -> int:
        """The next token; changes `logits` [vocab]."""
        return self.sampler.choose(logits, self.tokens[: self.length])

    def append(self, token: int, now: float) -> None:
        self.tokens[self.length] = token
        self.length += 1
        if self.first_token is None:
            self.first_token = now
        else:
            self.gaps.append(now - self.last_token)
        self.last_token = now

    def report(self, reason: str, now: float) -> RequestReport:
        return RequestReport(
            request_id=self.request.request_id,
            reason=reason,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.reused,
            completion_tokens=self.generated,
            queue=None if self.admitted is None else self.admitted - self.submitted,
            first_token=None if self.first_token is None else self.first_token - self.submitted,
            gaps=tuple(self.gaps),
            total=now - self.submitted,
        )
