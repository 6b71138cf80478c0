"""Tickets, and the mailbox with their results."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from narthex.settings import SettingsError, option

LONGEST = 10 * 365 * 86400.0
"""Seconds: with more of them what is kept would have times that cannot be written."""


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where tickets are kept: a path, or a URL that is shown without its password."""

    where: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        return cls(text)

    def __str__(self) -> str:
        scheme, separator, rest = self.where.partition("://")
        secret, at, place = rest.rpartition("@")
        return f"{scheme}{separator}{'…' if secret else ''}{at}{place.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class TicketSettings:
    """Where tickets are kept, for how long, and how many; sizes in bytes, times in seconds."""

    store: StorePlace = option(
        StorePlace(), "the file, or the URL of a PostgreSQL database, that has the tickets; by default a file per port",
        metavar="PATH",
    )  # fmt: skip
    running: int = option(16, "submitted tickets that are worked on at once; more wait", minimum=1)
    lease: float = option(
        15.0, "seconds after which another server takes over from one that gives no sign", minimum=0.3
    )
    max_seconds: float = option(86400.0, "seconds that a ticket's work may take, waiting included", minimum=1)
    keep: float = option(86400.0, "seconds that results are kept", minimum=1)
    max_open: int = option(1000, "tickets that wait or run, per tenant", minimum=1)
    max_bytes: int = option(256 * 1024 * 1024, "bytes of requests and results, per tenant", minimum=1024)
    webhook_hosts: tuple[str, ...] = option(
        (), "hosts (patterns of names) whose webhooks are told of the end of tickets; repeatable", metavar="GLOB"
    )
    webhook_private: bool = option(False, "these hosts may be in the server's own networks")
    webhook_ca: Path | None = option(None, "trust webhooks with certificates of these authorities alone, PEM")

    def __post_init__(self) -> None:
        for name, seconds in (("lease", self.lease), ("max-seconds", self.max_seconds), ("keep", self.keep)):
            if seconds > LONGEST:
                raise SettingsError(f"--tickets-{name}: {seconds:g} is above {LONGEST:g}, ten years")

    def where(self, port: int) -> str | None:
        """Where the tickets are of a server on this port; None: nowhere that outlives it."""
        if self.store.where:
            return self.store.where
        if not port:  # which is another one each time
            return None
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return str(state / "narthex" / f"tickets-{port}.sqlite")
