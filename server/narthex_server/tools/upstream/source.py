"""An upstream: where it is, and how it is dealt with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from narthex_server.tools.audience import EVERYBODY, Audience
from narthex_server.tools.presentation import PLAIN, Presentation
from narthex_server.tools.server import Scope
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.health import HealthSettings
from narthex_server.tools.upstream.limits import Limits
from narthex_server.tools.upstream.sandbox import Sandbox

DEFAULT_CALL_TIMEOUT = 30.0
DEFAULT_START_TIMEOUT = 20.0
DEFAULT_CONCURRENCY = 64
DEFAULT_MAX_BYTES = 16 * 1024 * 1024

Sampling = Literal["client", "model", "refuse"]
"""Who answers an upstream's sampling requests: the caller of the tool, a model of this server, or nobody."""

Protocol = Literal["auto", "handshake", "2025-11-25", "2026-07-28"]
"""What is spoken: what the server knows best, a version that begins with `initialize`, or one version and no other."""


@dataclass(frozen=True, slots=True)
class Process:
    """A server run as a child and spoken to over its standard input and output.

    Of our variables it has those whose names fit `env_allow`; without it a few that every program needs. `limits` None
    are none, whatever is usual.
    """

    command: str
    args: tuple[str, ...] = field(default=(), repr=False)  # tokens are passed there too
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    env_allow: tuple[str, ...] | None = None
    limits: Limits | None = field(default_factory=Limits)
    sandbox: Sandbox = field(default_factory=Sandbox)


@dataclass(frozen=True, slots=True)
class Http:
    """A server behind a URL: Streamable HTTP, or the older HTTP+SSE when `sse`."""

    url: str = field(repr=False)  # may hold a key in its query
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    sse: bool = False


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A transport that we cannot speak; such a server is listed with the reason and never started."""

    kind: str
    reason: str


Transport = Process | Http | Unsupported


@dataclass(frozen=True, slots=True)
class ServerSource:
    """One upstream; times in seconds.

    An answer of more than `max_bytes` fails the call that it is for; callers could not be sent it. Without `breaker`
    every call is tried, without `health` nothing is asked while no calls come.
    """

    name: str
    transport: Transport
    presentation: Presentation = PLAIN
    call_timeout: float = DEFAULT_CALL_TIMEOUT
    start_timeout: float = DEFAULT_START_TIMEOUT
    concurrency: int = DEFAULT_CONCURRENCY
    max_bytes: int = DEFAULT_MAX_BYTES
    sampling: Sampling = "client"
    protocol: Protocol = "auto"
    scope: Scope | None = None  # as the server's default says
    tenants: Audience = EVERYBODY
    breaker: BreakerSettings | None = BreakerSettings()
    health: HealthSettings | None = HealthSettings()
