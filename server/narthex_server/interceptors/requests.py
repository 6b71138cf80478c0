"""Request ids, and one log line per call."""

import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc
from grpc.aio import ServicerContext
from narthex.tracing.context import TRACE, sent

from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.principal import CALLER, REQUEST_ID

HEADER = "x-request-id"
SANE = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")

log = logging.getLogger(__name__)


def request_id(metadata: Any) -> str:
    """The caller's own id where it is short and printable, else a new one."""
    for key, value in metadata or ():
        if key == HEADER and isinstance(value, str) and SANE.fullmatch(value):
            return value
    return uuid4().hex


class RequestInterceptor(AroundInterceptor):
    """Gives every call an id and its trace, echoes the id in the initial metadata, and logs how the call ended."""

    @asynccontextmanager
    async def around(self, method: str, context: ServicerContext[Any, Any], traffic: Traffic) -> AsyncIterator[None]:
        started = time.perf_counter()
        metadata = context.invocation_metadata()
        REQUEST_ID.set(request_id(metadata))
        TRACE.set(sent(metadata))
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
                trace = TRACE.get()
                log.info(
                    "%s %s %.1f ms, %d sent, request=%s%s caller=%s",
                    method,
                    outcome,
                    1e3 * (time.perf_counter() - started),
                    traffic.sent,
                    REQUEST_ID.get(),
                    f" trace={trace.trace_id}" if trace is not None else "",
                    CALLER.get().name,
                )
