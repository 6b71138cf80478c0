"""Results of forwarded tools that are kept."""

from dataclasses import dataclass

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Which are, how long and how many; beside what the configuration of each upstream says."""

    enabled: bool = option(True, "keep results of the tools that the mcp-config names")
    read_only: bool = option(False, "keep results also of tools that say that they only read, and always the same")
    ttl: float = option(30.0, "seconds for which a result is kept", minimum=0.001)
    max_bytes: int = option(64 * 1024 * 1024, "bytes of all results that are kept", minimum=1024)
    max_entries: int = option(10_000, "results that are kept", minimum=1)
