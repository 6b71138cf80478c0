"""Engines that other servers run."""

from dataclasses import dataclass
from pathlib import Path

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class Remote:
    """How remote engines are spoken to; times in seconds."""

    max_requests: int = option(64, "requests that one remote model works on at once; more wait", minimum=1)
    connect_timeout: float = option(10.0, "seconds that connecting to a remote engine may take", minimum=0.01)
    read_timeout: float = option(300.0, "seconds that a remote engine may be silent within an answer", minimum=0.01)
    check_interval: float = option(30.0, "seconds between two looks at whether a remote engine is there", minimum=0.01)
    verify: bool = option(True, "check the certificates of remote engines")
    ca: Path | None = option(None, "trust remote engines with certificates of these authorities alone, PEM")
