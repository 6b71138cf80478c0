"""The bridge's settings: `[bridge]` of narthex.toml, NARTHEX_* and flags."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from narthex.settings import Address, SettingsError, option
from narthex.tracing.settings import Otel

from narthex_bridge.config.events import EventsConfig
from narthex_bridge.config.limits import LimitsConfig
from narthex_bridge.config.loopback import is_loopback
from narthex_bridge.config.oauth import OauthConfig
from narthex_bridge.config.redis import RedisUrl
from narthex_bridge.config.sizes import MIB
from narthex_bridge.config.tls import ServerTlsConfig, TlsConfig

ANY_ORIGIN = "*"
LogLevel = Literal["debug", "info", "warning", "error"]


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
    ui: bool = option(True, "serve the status page under /ui")
    max_body_bytes: int = option(16 * MIB, "largest HTTP request body", minimum=1024)
    max_header_bytes: int = option(32 * 1024, "largest HTTP request head", minimum=1024)
    body_timeout_s: float = option(30.0, "seconds in which a request's body must have arrived", minimum=0.01)
    max_message_bytes: int = option(64 * MIB, "largest gRPC message, each way", minimum=1024)
    max_sessions: int = option(10_000, "MCP sessions held at once", minimum=1)
    max_calls: int = option(1_000, "requests in work at once; more are told to retry", minimum=1)
    session_idle_s: float = option(1800.0, "seconds without traffic after which a session is forgotten", minimum=1)
    call_timeout_s: float = option(3600.0, "longest tool call, seconds", minimum=0.1)
    rpc_timeout_s: float = option(30.0, "longest list or health check on the server, seconds", minimum=0.1)
    input_timeout_s: float = option(600.0, "seconds that a call waits for input of its client", minimum=1)
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

    otel: Otel = field(default_factory=Otel)
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
