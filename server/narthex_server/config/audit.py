"""Whether and how calls are recorded."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class Audit:
    """The record of calls: where it is, what is in it, and what happens when it cannot be written."""

    enabled: bool = option(False, "record every call", flag="audit")
    path: Path = option(
        Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "narthex" / "audit",
        "the folder of the record; one server each",
        metavar="DIR",
        made=True,
    )
    arguments: Literal["off", "digest", "redacted", "full"] = option(
        "digest", "what is kept of arguments: nothing, their SHA-256, also themselves without credentials, or whole"
    )
    redact: tuple[str, ...] = option(
        (), "further names of arguments that are never kept, such as '*pin*'; repeatable", metavar="GLOB"
    )
    key_file: Path | None = option(None, "a key, of 32 bytes or more, without which the record cannot be made anew")
    on_failure: Literal["refuse", "continue"] = option(
        "refuse", "what happens to calls that cannot be recorded: nothing runs, or they are lost to the record"
    )
    max_pending: int = option(10_000, "records that may wait to be written", minimum=1)
    interval: float = option(0.05, "seconds that records wait to be written together", minimum=0)
    max_file_bytes: int = option(256 * 1024 * 1024, "size of a file after which another is begun", minimum=64 * 1024)
    max_file_days: float = option(30.0, "age of a file after which another is begun; 0 never", minimum=0)
    keep_days: float = option(0.0, "days after which a file is deleted; 0 never", minimum=0)
