"""Settings of what is kept for clients that come back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from narthex.settings import option

from narthex_bridge.config.sizes import MIB

StoreKind = Literal["memory", "sqlite", "redis"]


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """What is kept for clients that come back, and where."""

    store: StoreKind = option("memory", "where sessions and events are kept; sqlite and redis survive a restart")
    path: Path = option(Path("narthex-events.db"), "the file of the sqlite store; of one bridge at a time", made=True)
    per_session: int = option(2000, "events kept of one session", minimum=1)
    session_bytes: int = option(4 * MIB, "bytes of events kept of one session", minimum=1024)
    total_bytes: int = option(64 * MIB, "bytes of events kept of all sessions", minimum=1024)
    age_s: float = option(300.0, "seconds that an event is kept", minimum=1)
