"""Request ids, and one log line per call."""

import logging
import re
import time
from contextlib import AbstractAsyncContextManager
from itertools import count
from secrets import token_hex
from types import TracebackType
from typing import Any

from grpc import StatusCode
from grpc.aio import ServicerContext
from narthex.tracing.context import TRACE, sent

from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.principal import CALLER, REQUEST_ID, REQUEST_ID_HEADER

# What watchers ask again and again, and what changes nothing: a success is not worth a line of everybody's log.
POLLED = frozenset(
    {
        "/narthex.v1.ModelService/ListModels", "/narthex.v1.UpstreamService/ListUpstreams",
        "/narthex.v1.LotService/GetOccupancy", "/narthex.v1.LotService/ListPools",
        "/narthex.v1.LotService/ListTickets", "/narthex.v1.LotService/ListLocks",
    }
)  # fmt: skip

SANE = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")

log = logging.getLogger(__name__)


def request_id(metadata: Any) -> str | None:
    """The caller's own id where it is short and printable."""
    for key, value in metadata or ():
        if key == REQUEST_ID_HEADER and isinstance(value, str) and SANE.fullmatch(value):
            return value
    return None


class RequestInterceptor(AroundInterceptor):
    """Gives every call an id and its trace, echoes the id in the initial metadata, and logs how the call ended."""

    def __init__(self) -> None:
        # a number for each process and one for each call: asking the kernel each time costs more than the rest here
        self._ids = (f"{token}{number:016x}" for token in (token_hex(8),) for number in count(1))

    def around(
        self, method: str, context: ServicerContext[Any, Any], traffic: Traffic
    ) -> AbstractAsyncContextManager[None]:
        metadata = context.invocation_metadata()
        REQUEST_ID.set(request_id(metadata) or next(self._ids))
        TRACE.set(sent(metadata))
        return _Logging(method, context, traffic)


class _Logging(AbstractAsyncContextManager[None]):
    def __init__(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> None:
        self._method = method
        self._context = context
        self._traffic = traffic
        self._started = time.perf_counter()

    async def __aenter__(self) -> None:
        await self._context.send_initial_metadata(((REQUEST_ID_HEADER, REQUEST_ID.get()),))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        level = logging.DEBUG if error is None and self._method in POLLED else logging.INFO
        if log.isEnabledFor(level) and self._method.startswith("/narthex."):
            trace = TRACE.get()
            log.log(
                level,
                "%s %s %.1f ms, %d sent, request=%s%s caller=%s",
                self._method,
                self._outcome(error),
                1e3 * (time.perf_counter() - self._started),
                self._traffic.sent,
                REQUEST_ID.get(),
                f" trace={trace.trace_id}" if trace is not None else "",
                CALLER.get().name,
            )

    def _outcome(self, error: BaseException | None) -> str:
        if error is None:
            return "OK"
        return (self._context.code() or StatusCode.UNKNOWN).name if isinstance(error, Exception) else "CANCELLED"
