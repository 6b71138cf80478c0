"""How upstreams come and go while the server runs."""

from dataclasses import dataclass

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Changes of the set of upstreams; times in seconds."""

    follow: bool = option(True, "read --mcp-config again when it changes; SIGHUP has it read in any case")
    drain: float = option(
        30.0, "seconds that running calls of an upstream have to finish when it is replaced or removed", minimum=0
    )
