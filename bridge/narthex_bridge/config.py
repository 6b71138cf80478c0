"""The bridge's settings: `[bridge]` of narthex.toml, NARTHEX_* and flags."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from narthex.settings import Address, SettingsError, option, parse

MIB = 1024 * 1024
StoreKind = Literal["memory", "sqlite", "redis"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """HTTPS for clients."""

    cert: Path | None = option(None, "PEM certificate chain for HTTPS")
    key: Path | None = option(None, "PEM private key of the certificate")
    client_ca: Path | None = option(None, "PEM authorities; clients must then show a certificate of theirs")

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise SettingsError("tls: cert and key belong together; give both or neither")
        if self.client_ca and not self.cert:
            raise SettingsError("tls: client_ca needs cert and key")


@dataclass(frozen=True, slots=True)
class ServerTlsConfig:
    """TLS towards the server."""

    ca: Path | None = option(None, "PEM authorities that the server's certificate is checked against; turns TLS on")
    cert: Path | None = option(None, "PEM certificate chain that the bridge shows to the server")
    key: Path | None = option(None, "PEM private key of that certificate")

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise SettingsError("server_tls: cert and key belong together; give both or neither")
        if self.cert and not self.ca:
            raise SettingsError("server_tls: cert and key need ca, which turns TLS on")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where Redis is; shown without its password."""

    url: str

    @classmethod
    def parse(cls, text: str) -> Self:
        if urlsplit(text).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("is not a URL like redis://HOST:PORT/0, rediss://… or unix://PATH")
        return cls(text)

    def __str__(self) -> str:
        scheme, _, rest = self.url.partition("://")
        secret, at, place = rest.rpartition("@")
        return f"{scheme}://{'…' if secret else ''}{at}{place}"


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """What is kept for clients that come back, and where."""

    store: StoreKind = option("memory", "where sessions and events are kept; sqlite and redis survive a restart")
    path: Path = option(Path("narthex-events.db"), "the file of the sqlite store; of one bridge at a time", made=True)
    per_session: int = option(2000, "events kept of one session", minimum=1)
    session_bytes: int = option(4 * MIB, "bytes of events kept of one session", minimum=1024)
    total_bytes: int = option(64 * MIB, "bytes of events kept of all sessions", minimum=1024)
    age_s: float = option(300.0, "seconds that an event is kept", minimum=1)


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    """Everything a bridge process can be told."""

    http: Address = option(Address("127.0.0.1", 4321), "where to listen for MCP clients")
    server: Address = option(Address("127.0.0.1", 50051), "the narthex server's gRPC address")
    api_key_file: Path | None = option(None, "TOML file of API keys; without it everybody may call")
    server_key_file: Path | None = option(None, "file with the bridge's own API key; without it NARTHEX_DELEGATE_TOKEN")
    allowed_origins: tuple[str, ...] = option((), "further browser origins that may call, such as https://app.example")
    allowed_hosts: tuple[str, ...] = option((), "further Host names that may be used; loopback ones always may")
    max_body_bytes: int = option(16 * MIB, "largest HTTP request body", minimum=1024)
    max_message_bytes: int = option(64 * MIB, "largest gRPC message, each way", minimum=1024)
    max_sessions: int = option(10_000, "MCP sessions held at once", minimum=1)
    max_calls: int = option(1_000, "requests in work at once; more are told to retry", minimum=1)
    session_idle_s: float = option(1800.0, "seconds without traffic after which a session is forgotten", minimum=1)
    call_timeout_s: float = option(3600.0, "longest tool call, seconds", minimum=0.1)
    rpc_timeout_s: float = option(30.0, "longest list or health check on the server, seconds", minimum=0.1)
    stream_after_s: float = option(10.0, "seconds after which a silent answer becomes a stream", minimum=0.01)
    keepalive_s: float = option(15.0, "seconds between signs of life on silent streams", minimum=0.01)
    resume_grace_s: float = option(60.0, "seconds that a call goes on for a client that may come back", minimum=0)
    stream_lifetime_s: float = option(
        0.0, "seconds after which a stream is closed and its client polls for the rest; 0 is never", minimum=0
    )
    retry_s: float = option(1.0, "seconds that clients are told to wait before they reconnect", minimum=0)
    redis: RedisUrl | None = option(
        None, "the Redis that bridges share, such as redis://127.0.0.1:6379/0", metavar="URL"
    )
    shutdown_grace: float = option(10.0, "seconds that running calls get on SIGTERM", minimum=0)
    log_level: LogLevel = option("info", "the least that is logged, on stderr")
    tls: TlsConfig = field(default_factory=TlsConfig)
    server_tls: ServerTlsConfig = field(default_factory=ServerTlsConfig)
    events: EventsConfig = field(default_factory=EventsConfig)

    def __post_init__(self) -> None:
        if self.events.store == "redis" and self.redis is None:
            raise SettingsError("events: store redis needs the setting redis, a URL")


DESCRIPTION = "Serve a narthex server's tools to MCP clients over HTTP and SSE."
OLD_PORT_FLAGS = ("--mcp-http-port", "--http-mcp-port")


def from_arguments(argv: Sequence[str]) -> BridgeConfig:
    """The settings of a command line; a mistake is told on stderr and exits with 2."""
    return parse(BridgeConfig, "bridge", _modern(argv), prog="narthex bridge", description=DESCRIPTION)


def _modern(argv: Sequence[str]) -> Sequence[str]:
    """`--mcp-http-port N` and `--http-mcp-port N` as `--http 127.0.0.1:N`."""
    modern: list[str] = []
    follows_port = False
    for word in argv:
        flag, equals, value = word.partition("=")
        if follows_port:
            modern.append(f"127.0.0.1:{word}")
            follows_port = False
        elif flag in OLD_PORT_FLAGS:
            follows_port = not equals
            modern += ["--http", f"127.0.0.1:{value}"] if equals else ["--http"]
        else:
            modern.append(word)
    return modern
