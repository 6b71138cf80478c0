"""Who is calling."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the name of its key and the tenant that its work, tools and limits belong to."""

    name: str
    tenant: str


LOCAL = Principal("local", "default")
"""The caller of a server that has no API keys configured."""
