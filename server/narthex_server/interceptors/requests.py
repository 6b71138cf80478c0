"""Request ids, and one log line per call."""

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from secrets import token_hex
from typing import Any

import grpc
from grpc.aio import ServicerContext

from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.principal import CALLER, REQUEST_ID

HEADER = "x-request-id"
SANE = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")

log = logging.getLogger(__name__)


def request_id(metadata: Any) -> str | None:
    """The caller's own id where it is short and printable."""
    for key, value in metadata or ():
        if key == HEADER and isinstance(value, str) and SANE.fullmatch(value):
            return value
    return None


class RequestInterceptor(AroundInterceptor):
    """Gives every call an id, echoes it in the initial metadata, and logs how the call ended."""

    def __init__(self) -> None:
        # a number for each process and one for each call: asking the kernel each time costs more than the rest here
        self._ids = (f"{token}{number:016x}" for token in (token_hex(8),) for number in count(1))

    @asynccontextmanager
    async def around(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> AsyncIterator[None]:
        started = time.perf_counter()
        REQUEST_ID.set(request_id(context.invocation_metadata()) or next(self._ids))
        await context.send_initial_metadata(((HEADER, REQUEST_ID.get()),))
        outcome = "CANCELLED"
        try:
            yield
            outcome = "OK"
        except Exception:
            outcome = (context.code() or grpc.StatusCode.UNKNOWN).name
            raise
        finally:
            if log.isEnabledFor(logging.INFO) and method.startswith("/narthex."):
                log.info(
                    "%s %s %.1f ms, %d sent, request=%s caller=%s",
                    method,
                    outcome,
                    1e3 * (time.perf_counter() - started),
                    traffic.sent,
                    REQUEST_ID.get(),
                    CALLER.get().name,
                )
