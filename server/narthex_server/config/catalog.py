"""What callers see of upstreams."""

from dataclasses import dataclass
from typing import Literal

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class CatalogSettings:
    """How what upstreams offer is shown, searched and checked."""

    scan: Literal["strip", "refuse", "off"] = option(
        "strip", "hidden characters in descriptions: remove them, leave out what has them, or let them through"
    )
    results: Literal["report", "refuse", "off"] = option(
        "report", "results that do not fit a tool's output schema: count them, or make errors of them"
    )
    search: Literal["auto", "on", "off"] = option(
        "auto", "offer tools__search and tools__call: where upstreams have many tools, always, or never"
    )
    search_above: int = option(50, "forwarded tools above which `auto` offers the search", minimum=0)
    lazy: tuple[str, ...] = option(
        (), "callers (patterns of key names) that are listed our own tools alone, to search for the others; repeatable",
        metavar="GLOB",
    )  # fmt: skip
