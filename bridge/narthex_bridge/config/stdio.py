"""The settings of `narthex mcp`."""

from dataclasses import dataclass, field
from pathlib import Path

from narthex.settings import Address, option

from narthex_bridge.config.bridge import LogLevel
from narthex_bridge.config.sizes import MIB
from narthex_bridge.config.tls import ServerTlsConfig


@dataclass(frozen=True, slots=True)
class StdioConfig:
    """What this program can be told."""

    server: Address = option(Address("127.0.0.1", 50051), "the narthex server's gRPC address")
    server_key_file: Path | None = option(None, "file with your API key; without it NARTHEX_API_KEY")
    max_body_bytes: int = option(16 * MIB, "largest message, bytes", minimum=1024)
    max_calls: int = option(100, "requests in work at once; more are told to retry", minimum=1)
    call_timeout_s: float = option(3600.0, "longest tool call, seconds", minimum=0.1)
    shutdown_grace: float = option(10.0, "seconds that running calls get when the client has closed its end", minimum=0)
    log_level: LogLevel = option("warning", "the least that is logged, on stderr")
    server_tls: ServerTlsConfig = field(default_factory=ServerTlsConfig)
