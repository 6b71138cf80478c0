"""All kinds of work, as the lot sees them: bytes in, bytes out."""

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, cast

from google.rpc.status_pb2 import Status
from narthex.tracing.context import TRACE
from narthex.v1 import lot_pb2 as lot

from narthex_server.errors import FailedPrecondition, Unimplemented
from narthex_server.lot.runner import Happening
from narthex_server.lot.ticket import Order, Outcome, State
from narthex_server.principal import CALLER, REQUEST_ID, SESSION
from narthex_server.services.relay import Context, RelayedContext
from narthex_server.services.works.kind import Kind
from narthex_server.services.works.retelling import Retelling
from narthex_server.services.works.rights import Rights
from narthex_server.services.works.whose import Whose
from narthex_server.tools.upstream.tokens import HEADER

MOST_ATTEMPTS = 10
"""How often work is begun: what takes its server along each time must not do so for ever."""

Tokens = tuple[tuple[str, str | bytes], ...]


class Works:
    """Does work of the kinds that it was given, as the caller whose it is."""

    def __init__(
        self, status: Callable[[Exception], Status], rights: Rights, clock: Callable[[], float] = time.time
    ) -> None:
        """`status` says what the caller of an RPC would be told of an error."""
        self._kinds: dict[str, Kind] = {}
        self._status = status
        self._rights = rights
        self._clock = clock
        self._tokens: dict[tuple[str, str], Tokens] = {}

    def add(self, *kinds: Kind) -> None:
        """Can do these from now on."""
        self._kinds |= {kind.name: kind for kind in kinds}

    def kind(self, name: str) -> Kind:
        """Raises Unimplemented for one that this server cannot do."""
        if (kind := self._kinds.get(name)) is None:
            raise Unimplemented(f"work.{name}: this server does not take such work yet")
        return kind

    def lend(self, tenant: str, ticket: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """The caller's own tokens for upstreams go with a ticket as long as this process lasts: they are never kept."""
        if tokens := tuple((key, value) for key, value in metadata if key.startswith(HEADER)):
            self._tokens[tenant, ticket] = tokens

    async def run(self, order: Order, attempt: int, kept: Sequence[bytes]) -> AsyncGenerator[Happening]:
        whose, kind = Whose.parse(order.principal), self.kind(order.kind)
        self._rights.check(whose.principal)
        if attempt > MOST_ATTEMPTS:
            raise FailedPrecondition(
                f"the work was begun {MOST_ATTEMPTS} times, and each time its server ended", reason="ATTEMPTS"
            )
        CALLER.set(whose.principal)
        SESSION.set(whose.session)
        REQUEST_ID.set(order.id)
        TRACE.set(None)
        request, told = kind.parse(order.request), [*self.events(kind, kept)]
        if attempt > 1 and not order.repeatable and kind.acted(request, told):
            raise FailedPrecondition(
                "the server that did this work ended; it may have done something already, and was not begun again",
                reason="INTERRUPTED",
            )
        retelling = Retelling(kind.name, told, attempt)
        left = None if order.deadline is None else max(order.deadline - self._clock(), 0.0)
        context = cast(Context, RelayedContext(self._tokens.get((order.tenant, order.id), ()), left))
        async with aclosing(kind.run(request, context)) as events:
            async for event in events:
                waits = kind.waits(event)
                for new in retelling.further(event):
                    yield Happening(new.SerializeToString(), waits)

    def ended(self, order: Order) -> None:
        self._tokens.pop((order.tenant, order.id), None)

    def outcome(self, error: Exception) -> Outcome:
        status = self._status(error)
        return Outcome(State.FAILED, status.code, status.SerializeToString())

    def results(self, order: Order, kept: Sequence[bytes]) -> Iterator[lot.FetchResponse]:
        """What the kept events of work that is done come to."""
        kind = self.kind(order.kind)
        for result in kind.results([*self.events(kind, kept)]):
            response = lot.FetchResponse()
            getattr(response, kind.name).CopyFrom(result)
            yield response

    @staticmethod
    def events(kind: Kind, kept: Sequence[bytes]) -> Iterator[Any]:
        """The events that hold: those since the work last began anew."""
        all_of_them = [lot.WorkEvent.FromString(event) for event in kept]
        marks = [place for place, event in enumerate(all_of_them) if event.HasField("restarted")]
        for event in all_of_them[marks[-1] + 1 if marks else 0 :]:
            yield getattr(event, kind.name)
