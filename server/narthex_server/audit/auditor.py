"""Takes what happens down, and lets nothing happen that cannot be."""

import asyncio
import time
from contextlib import suppress
from typing import Literal

from narthex.tracing.context import TRACE

from narthex_server.audit.writer import AuditWriter, Entry
from narthex_server.errors import Unavailable
from narthex_server.tools.acts import Act
from narthex_server.tools.report import CallReport

UNAVAILABLE = "AUDIT_UNAVAILABLE"

OnFailure = Literal["refuse", "continue"]


class Auditor:
    """The catalog's admission, an observer of it, and of acts; used on the event loop."""

    def __init__(self, writer: AuditWriter, on_failure: OnFailure) -> None:
        self._writer = writer
        self._required = on_failure == "refuse"
        self.refused = 0

    def enter(self) -> None:
        """Raises Unavailable while calls are refused that could not be recorded."""
        if self._required and (self._writer.failing or self._writer.full):
            self.refused += 1
            raise Unavailable("What is called here has to be recorded, which fails at present.", reason=UNAVAILABLE)

    def on_call(self, report: CallReport) -> None:
        needed = self._required and report.reason != UNAVAILABLE
        self._writer.put(Entry(time.time(), _trace_id(), report), needed=needed)

    def on_act(self, act: Act) -> None:
        needed = self._required and act.reason != UNAVAILABLE
        self._writer.put(Entry(time.time(), _trace_id(), act), needed=needed)

    async def stop(self) -> None:
        """Returns when all is written."""
        stopping = asyncio.create_task(asyncio.to_thread(self._writer.stop))
        with suppress(asyncio.CancelledError):
            await asyncio.shield(stopping)
        await stopping


def _trace_id() -> str:
    trace = TRACE.get()
    return trace.trace_id if trace is not None else ""
