"""Which trace a request belongs to (W3C Trace Context)."""

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_STATE = 512


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span that further ones go under: ids in lower-case hexadecimal, `state` as its vendors wrote it."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""

    @classmethod
    def of(cls, carrier: Mapping[str, object]) -> Self | None:
        """What headers, metadata or MCP's `_meta` say; None where it is nothing, or no trace context."""
        return cls.parse(carrier.get(TRACEPARENT), carrier.get(TRACESTATE))

    @classmethod
    def parse(cls, parent: object, state: object = "") -> Self | None:
        if not isinstance(parent, str) or (found := _FORM.fullmatch(parent.strip())) is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
            return None
        kept = isinstance(state, str) and len(state) <= _MAX_STATE and state.isascii() and state.isprintable()
        return cls(trace_id, span_id, int(flags, 16), str(state).strip() if kept else "")

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags & 0x03:02x}"

    def carried(self) -> dict[str, str]:
        """What to put into headers, metadata or `_meta`."""
        carried = {TRACEPARENT: self.traceparent}
        return {**carried, TRACESTATE: self.state} if self.state else carried


def sent(metadata: Iterable[tuple[str, str | bytes]] | None) -> TraceContext | None:
    """What the metadata of an RPC say."""
    parent: str | bytes = ""
    state: str | bytes = ""
    for key, value in metadata or ():
        if key == TRACEPARENT:
            parent = value
        elif key == TRACESTATE:
            state = value
    return TraceContext.parse(parent, state) if parent else None


TRACE: ContextVar[TraceContext | None] = ContextVar("trace", default=None)
"""The span that the running request is in, in this process or before it."""
