"""How upstreams come and go while the server runs."""

from dataclasses import dataclass
from typing import Literal

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Changes of the set of upstreams, and what processes of theirs may use that say nothing else; times in seconds."""

    follow: bool = option(True, "read --mcp-config again when it changes; SIGHUP has it read in any case")
    drain: float = option(
        30.0, "seconds that running calls of an upstream have to finish when it is replaced or removed", minimum=0
    )
    memory_mb: int = option(0, "MB of memory of an upstream's processes together; 0 is no limit", minimum=0)
    cpu_secs: int = option(0, "seconds of CPU time of each of its processes; 0 is no limit", minimum=0)
    open_files: int = option(0, "open files of each of its processes; 0 leaves what the system has", minimum=0)
    processes: int = option(0, "processes of an upstream; 0 is no limit", minimum=0)
    file_mb: int = option(0, "MB of a file that it writes; 0 is no limit", minimum=0)
    sandbox: Literal["off", "auto", "on"] = option("off", "run it in bubblewrap: no, where that is there, or always")
