"""What upstreams have in common whose connection a Keeper keeps."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from narthex_server.tools.audience import Audience
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import ServerStatus, SharedServer, Vitals
from narthex_server.tools.tool import CallContext, Tool
from narthex_server.tools.upstream.breaker import Breaker
from narthex_server.tools.upstream.clock import in_time
from narthex_server.tools.upstream.guard import Guard
from narthex_server.tools.upstream.keeper import Keeper
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.source import ServerSource


class KeptServer(SharedServer, ABC):
    """The part of an UpstreamServer that is its connection; on the event loop only."""

    def __init__(self, source: ServerSource, breaker: Breaker | None) -> None:
        self._source = source
        self._secrets = Secrets()
        guard = Guard(source.name, breaker)
        self._keeper = Keeper(
            source.name, source.transport.scheme, self._connection, lambda: len(self.tools), guard, self._secrets.hide
        )

    @abstractmethod
    async def _connection(self) -> None:
        """As Keeper calls it."""

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def presentation(self) -> Presentation:
        return self._source.presentation

    @property
    def tenants(self) -> Audience:
        return self._source.tenants

    @property
    def cache(self) -> CacheRule | None:
        return self._source.cache

    @property
    def status(self) -> ServerStatus:
        return self._keeper.status

    @property
    def vitals(self) -> Vitals:
        return self._keeper.vitals

    @property
    def tools(self) -> tuple[Tool, ...]:
        return ()

    def start(self, changed: Callable[[], None]) -> None:
        self._keeper.start(changed)

    async def settled(self) -> None:
        await self._keeper.settled()

    def reconnect(self, tenant: str | None = None) -> None:
        self._keeper.reconnect()

    async def drain(self, grace: float) -> None:
        await self._keeper.drain(grace)

    async def stop(self) -> None:
        await self._keeper.stop()

    def _in_time(self, context: CallContext) -> AbstractAsyncContextManager[float]:
        """The time of one question, as `in_time`."""
        return in_time(self.name, self._source.call_seconds, context.deadline)
