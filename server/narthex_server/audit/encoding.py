"""What a record says, as JSON."""

from datetime import UTC, datetime
from typing import Any

import orjson

from narthex_server.audit.arguments import Arguments
from narthex_server.tools.acts import Act
from narthex_server.tools.report import CallReport

MAX_NAME = 256
"""Characters that are kept of names and URIs that callers make up."""


def stamp(at: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Encoding:
    """Makes records of reports and acts; members without a value are left out."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments

    def call(self, at: float, trace_id: str, report: CallReport) -> bytes:
        """`at` is when it was over."""
        context, trail = report.context, report.trail
        return _dumped(
            {
                "kind": report.kind,
                "at": stamp(at),
                "tenant": context.principal.tenant,
                "key": context.principal.name,
                "request": context.request_id,
                "call": context.inputs.call_id if context.inputs is not None else "",
                "trace": trace_id,
                "server": report.server,
                "name": self._named(report.name),
                "asked": self._named(report.asked) if report.asked != report.name else "",
                "rule": trail.rule,
                "cached": trail.cached,
                **self._arguments.members(report.arguments),
                "outcome": report.outcome,
                "reason": report.reason,
                "ms": round(report.seconds * 1000, 3),
                "in": report.received,
                "out": report.sent,
            }
        )

    def act(self, at: float, trace_id: str, act: Act) -> bytes:
        return _dumped(
            {
                "kind": "act",
                "at": stamp(at),
                "tenant": act.principal.tenant,
                "key": act.principal.name,
                "request": act.request_id,
                "trace": trace_id,
                "verb": act.verb,
                "subject": self._named(act.subject),
                "outcome": "error" if act.reason else "ok",
                "reason": act.reason,
            }
        )

    def _named(self, name: str) -> str:
        """A name or URI as it is kept: URIs can hold passwords."""
        return self._arguments.text(name)[:MAX_NAME]

    def gap(self, at: float, lost: int) -> bytes:
        """What stands where records were lost."""
        return _dumped({"kind": "gap", "at": stamp(at), "lost": lost})

    def failed(self, at: float, entry: CallReport | Act, error: Exception) -> bytes:
        """What stands where a record could not be made."""
        whose = entry.context.principal if isinstance(entry, CallReport) else entry.principal
        why = type(error).__name__
        return _dumped(
            {"kind": "unreadable", "at": stamp(at), "tenant": whose.tenant, "key": whose.name, "reason": why}
        )


def _dumped(members: dict[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in members.items() if value is not False and value != ""})
