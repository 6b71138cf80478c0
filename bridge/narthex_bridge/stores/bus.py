"""How bridges that share sessions tell each other things, and whether they are alive."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Protocol

Note = dict[str, Any]
Take = Callable[[Note], None]


class Bus(Protocol):
    """The way to the other replicas; `replica` is this process's name among them."""

    replica: str

    async def publish(self, note: Note) -> None:
        """Tells all others. Raises StoreUnavailable."""

    async def follow(self, take: Take) -> None:
        """Hands over what others tell, in order, for ever."""

    async def alive(self, replica: str) -> bool:
        """Whether a replica runs. Raises StoreUnavailable."""


class NoBus:
    """A bridge alone."""

    def __init__(self) -> None:
        self.replica = secrets.token_hex(6)

    async def publish(self, note: Note) -> None:
        """Nothing: there is nobody."""

    async def follow(self, take: Take) -> None:
        await asyncio.Event().wait()

    async def alive(self, replica: str) -> bool:
        return replica == self.replica
