"""Conversations that the server keeps."""

from dataclasses import dataclass
from pathlib import Path

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class Sessions:
    """Where sessions are kept, how long, and how much of them; sizes in bytes."""

    file: Path | None = option(None, "keep sessions in this file, so that they outlive the server", made=True)
    ttl: float = option(86400.0, "seconds without use after which a session is forgotten", minimum=1)
    max_count: int = option(100, "sessions, per caller", minimum=1)
    max_messages: int = option(1000, "messages of a session that still takes further ones", minimum=1)
    max_bytes: int = option(1024 * 1024, "bytes of a session that still takes further messages", minimum=1024)
    max_total_bytes: int = option(16 * 1024 * 1024, "bytes of all sessions, per caller", minimum=1024)
