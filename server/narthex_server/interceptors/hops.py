"""Calls that came by way of other narthex servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from grpc.aio import ServicerContext

from narthex_server.errors import FailedPrecondition
from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.tools.reach import INSTANCE, MOST_HOPS, VIA, VIA_HEADER


class HopInterceptor(AroundInterceptor):
    """Refuses a call that was here before, or has come too far; who forwards it adds its id to `x-narthex-via`."""

    def __init__(self, instance: str) -> None:
        self._instance = instance

    @asynccontextmanager
    async def around(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> AsyncIterator[None]:
        if given := next((v for k, v in context.invocation_metadata() or () if k == VIA_HEADER), None):
            via = tuple(part for part in str(given)[:1000].split(",") if INSTANCE.fullmatch(part))
            if self._instance in via:
                raise FailedPrecondition(
                    "This call has come back to a server that forwards it; take one of the upstreams out that lead in"
                    " a circle.",
                    reason="FORWARDING_LOOP",
                )
            if len(via) > MOST_HOPS:
                raise FailedPrecondition(
                    f"This call has passed {len(via)} servers; at most {MOST_HOPS} may forward it.",
                    reason="TOO_MANY_HOPS",
                )
            VIA.set(via)
        yield
