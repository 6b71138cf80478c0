"""The bridge's settings: `[bridge]` of narthex.toml, NARTHEX_* and flags."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from narthex.rates import UNLIMITED, Rate
from narthex.settings import Address, SettingsError, option, parse

MIB = 1024 * 1024
ANY_ORIGIN = "*"
_QUOTABLE = re.compile(r"[!#-\[\]-~]+")  # what may stand in a quoted string of a header
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
class OauthConfig:
    """Tokens of OAuth 2.1 authorization servers; given an issuer, the bridge is a resource server."""

    issuers: tuple[str, ...] = option((), "authorization servers whose access tokens are taken; turns OAuth on")
    resource: str = option("", "the public URL of /mcp, which clients name to the authorization server")
    audiences: tuple[str, ...] = option((), "what tokens must be meant for (aud); by default the resource")
    jwks_url: str = option("", "where the only issuer's keys are; by default its metadata says")
    scopes: tuple[str, ...] = option((), "scopes that every token needs")
    tenant_claim: str = option("", "the claim that names a token's tenant; without it all are of tenant default")
    tool_scope_prefix: str = option("", "scopes that start so, such as tools:, name the tools that a token is for")
    jwks_lifetime_s: float = option(600.0, "seconds after which an issuer's keys are fetched again", minimum=1)
    jwks_pause_s: float = option(30.0, "least seconds between fetches for keys that are not known", minimum=0)
    timeout_s: float = option(5.0, "longest request to an authorization server, seconds", minimum=0.1)
    leeway_s: float = option(30.0, "seconds by which clocks may differ", minimum=0)

    def __post_init__(self) -> None:
        if not self.issuers:
            return
        if not self.resource:
            raise SettingsError("oauth: resource is missing: the public URL of /mcp, such as https://tools.example/mcp")
        if self.jwks_url and len(self.issuers) > 1:
            raise SettingsError("oauth: jwks_url holds for one issuer; with several their metadata says where keys are")
        for name, url in (
            ("resource", self.resource),
            ("jwks_url", self.jwks_url),
            *(("issuers", i) for i in self.issuers),
        ):
            if url and (problem := url_problem(url)):
                raise SettingsError(f"oauth: {name}: {url!r} {problem}")
        for scope in self.scopes:
            if not _QUOTABLE.fullmatch(scope):
                raise SettingsError(f"oauth: scopes: {scope!r} is not one word of ASCII; repeat the flag for several")


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """How many HTTP requests are taken, each written N/second, N/minute, N/hour, N/day or off.

    As many may come at once; after that they come back one by one, evenly.
    """

    total: Rate = option(UNLIMITED, "requests of all clients together", metavar="N/UNIT")
    address: Rate = option(Rate(6000, 60), "requests per client address, save those of this machine", metavar="N/UNIT")
    principal: Rate = option(
        UNLIMITED, "requests per key without a rate of its own, or token subject", metavar="N/UNIT"
    )


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
    allow_anyone: bool = option(False, "listen beyond this machine though anyone could call: no keys, no OAuth")
    server_key_file: Path | None = option(None, "file with the bridge's own API key; without it NARTHEX_DELEGATE_TOKEN")
    legacy_sse: bool = option(True, "serve the transport of 2024-11-05, /sse and /messages")
    direct: bool = option(True, "serve /mcp/stream and /mcp/list, calls without a session")
    secret_file: Path | None = option(
        None,
        "file that cursors and states are signed with, the same for all replicas; without it they end with the process",
    )
    allowed_origins: tuple[str, ...] = option((), "further browser origins, such as https://app.example; * for all")
    allowed_hosts: tuple[str, ...] = option((), "further Host names that may be used; loopback ones always may")
    trusted_proxies: tuple[str, ...] = option((), "addresses or networks whose X-Forwarded-For is believed")
    openai: bool = option(True, "answer OpenAI-style requests under /v1")
    anthropic: bool = option(True, "answer Anthropic-style requests under /v1/messages")
    mistralrs: bool = option(True, "answer mistral.rs's own endpoints for models and adapters, and /health")
    max_body_bytes: int = option(16 * MIB, "largest HTTP request body", minimum=1024)
    max_header_bytes: int = option(32 * 1024, "largest HTTP request head", minimum=1024)
    body_timeout_s: float = option(30.0, "seconds in which a request's body must have arrived", minimum=0.01)
    max_message_bytes: int = option(64 * MIB, "largest gRPC message, each way", minimum=1024)
    max_sessions: int = option(10_000, "MCP sessions held at once", minimum=1)
    max_calls: int = option(1_000, "requests in work at once; more are told to retry", minimum=1)
    session_idle_s: float = option(1800.0, "seconds without traffic after which a session is forgotten", minimum=1)
    call_timeout_s: float = option(3600.0, "longest tool call, seconds", minimum=0.1)
    rpc_timeout_s: float = option(30.0, "longest list or health check on the server, seconds", minimum=0.1)
    input_timeout_s: float = option(
        600.0, "seconds that a call waits for input of a client without a session", minimum=1
    )
    stream_after_s: float = option(10.0, "seconds after which a silent answer becomes a stream", minimum=0.01)
    keepalive_s: float = option(15.0, "seconds between signs of life on silent streams", minimum=0.01)
    resume_grace_s: float = option(60.0, "seconds that a call goes on for a client that may come back", minimum=0)
    stream_lifetime_s: float = option(
        0.0, "seconds after which a stream is closed and its client polls for the rest; 0 is never", minimum=0
    )
    retry_s: float = option(1.0, "seconds that clients are told to wait before they reconnect", minimum=0)
    redis: RedisUrl | None = option(
        None, "the Redis that bridges share, for limits and sessions, such as redis://127.0.0.1:6379/0", metavar="URL"
    )
    shutdown_grace: float = option(10.0, "seconds that running calls get on SIGTERM", minimum=0)
    log_level: LogLevel = option("info", "the least that is logged, on stderr")
    tls: TlsConfig = field(default_factory=TlsConfig)
    server_tls: ServerTlsConfig = field(default_factory=ServerTlsConfig)
    oauth: OauthConfig = field(default_factory=OauthConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    events: EventsConfig = field(default_factory=EventsConfig)

    def __post_init__(self) -> None:
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise SettingsError(f"trusted_proxies: {error}") from None
        if self.events.store == "redis" and self.redis is None:
            raise SettingsError("events: store redis needs the setting redis, a URL")
        if self.authenticates:
            return
        if ANY_ORIGIN in self.allowed_origins:
            raise SettingsError(
                "allowed_origins: * lets every web page call; name the origins, or give api_key_file or oauth.issuers"
            )
        if not self.allow_anyone and not is_loopback(self.http.host):
            raise SettingsError(
                f"http: {self.http} can be reached from other machines, and anyone there could call: give api_key_file,"
                " oauth.issuers or tls.client_ca, listen on 127.0.0.1, or say --allow-anyone if that is meant"
            )

    @property
    def authenticates(self) -> bool:
        """Whether callers must show something."""
        return bool(self.api_key_file or self.oauth.issuers or self.tls.client_ca)


def is_loopback(name: str) -> bool:
    """Whether a host name or address always means this machine."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def url_problem(url: str) -> str:
    """Why a URL cannot be one of OAuth, or an empty text: https, or http on this machine, and no fragment or query."""
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not _QUOTABLE.fullmatch(url) or parts.query or parts.fragment or parts.username is not None:
        return "is not a plain URL"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return "must begin with https://"
    return ""


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
