"""An upstream: where it is, and how it is dealt with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from narthex_server.tools.audience import EVERYBODY, Audience
from narthex_server.tools.presentation import PLAIN, Presentation
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import Scope
from narthex_server.tools.upstream.auth import Auth
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.health import HealthSettings
from narthex_server.tools.upstream.limits import Limits
from narthex_server.tools.upstream.sandbox import Sandbox
from narthex_server.tools.upstream.secrets import Text
from narthex_server.tools.upstream.tls import USUAL, Tls

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
    env: Mapping[str, Text] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    env_allow: tuple[str, ...] | None = None
    limits: Limits | None = field(default_factory=Limits)
    sandbox: Sandbox = field(default_factory=Sandbox)

    @property
    def scheme(self) -> str:
        return "stdio"


@dataclass(frozen=True, slots=True)
class Http:
    """A server behind a URL: Streamable HTTP, or the older HTTP+SSE when `sse`."""

    url: str = field(repr=False)  # may hold a key in its query
    headers: Mapping[str, Text] = field(default_factory=dict, repr=False)
    sse: bool = False
    tls: Tls = USUAL
    auth: Auth | None = None

    @property
    def scheme(self) -> str:
        return "sse" if self.sse else "http"


@dataclass(frozen=True, slots=True)
class WebSocket:
    """A server behind a ws:// or wss:// URL, one JSON-RPC message in each text frame."""

    url: str = field(repr=False)
    headers: Mapping[str, Text] = field(default_factory=dict, repr=False)
    tls: Tls = USUAL

    @property
    def scheme(self) -> str:
        return "websocket"


@dataclass(frozen=True, slots=True)
class Narthex:
    """Another narthex server by its gRPC contract; `target` is HOST:PORT.

    Where `delegate` its key may speak for others, and it is told whose call each is. Where `passthrough` each caller
    brings a key of its own.
    """

    target: str
    secure: bool = False
    api_key: Text | None = field(default=None, repr=False)
    tls: Tls = USUAL
    delegate: bool = False
    passthrough: bool = False

    @property
    def scheme(self) -> str:
        return "narthex"


@dataclass(frozen=True, slots=True)
class OpenApi:
    """An HTTP API that a document describes, a file or a URL; each operation is a tool.

    `url` is used instead of the document's own servers. Operations are those whose id, `METHOD /path` or `tag:NAME`
    fits a pattern of `include` (all, where there is none) and none of `exclude`.
    """

    document: str = field(repr=False)
    url: str | None = field(default=None, repr=False)
    headers: Mapping[str, Text] = field(default_factory=dict, repr=False)
    tls: Tls = USUAL
    auth: Auth | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        return "openapi"


Transport = Process | Http | WebSocket | Narthex | OpenApi


@dataclass(frozen=True, slots=True)
class ServerSource:
    """One upstream; times in seconds.

    An answer of more than `max_bytes` fails the call that it is for; callers could not be sent it. Without `breaker`
    every call is tried, without `health` nothing is asked while no calls come, without `cache` no result is kept.
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
    cache: CacheRule | None = field(default_factory=CacheRule)

    @property
    def auth(self) -> Auth | None:
        """How it is shown who asks, beside fixed headers."""
        return self.transport.auth if isinstance(self.transport, Http | OpenApi) else None
