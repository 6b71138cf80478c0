"""Messages of the contract as the page reads them: JSON, times in seconds, states as words, what is unset as null."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from narthex.v1 import common_pb2, lot_pb2, model_pb2, upstream_pb2

Row = dict[str, Any]

PRIORITIES: Mapping[int, str] = MappingProxyType(
    {
        common_pb2.PRIORITY_BATCH: "low", common_pb2.PRIORITY_NORMAL: "normal",
        common_pb2.PRIORITY_UNSPECIFIED: "normal", common_pb2.PRIORITY_INTERACTIVE: "high",
        common_pb2.PRIORITY_CRITICAL: "critical",
    }
)  # fmt: skip


class _Enum(Protocol):
    def items(self) -> Any: ...


class _Time(Protocol):
    @property
    def seconds(self) -> int: ...
    @property
    def nanos(self) -> int: ...


class _Words:
    """The values of an enum in lower case, without what they all begin with."""

    def __init__(self, enum: _Enum, prefix: str) -> None:
        self._words: dict[int, str] = {number: name.removeprefix(prefix).lower() for name, number in enum.items()}
        self._words[0] = "unknown"

    def of(self, number: int) -> str:
        return self._words.get(number, "unknown")


_MODEL_STATES = _Words(model_pb2.ModelState, "MODEL_STATE_")
_CAPABILITIES = _Words(model_pb2.Capability, "CAPABILITY_")
_TICKET_STATES = _Words(lot_pb2.TicketState, "TICKET_STATE_")
_UPSTREAM_STATES = _Words(upstream_pb2.UpstreamState, "UPSTREAM_STATE_")
_BREAKER_STATES = _Words(upstream_pb2.BreakerState, "BREAKER_STATE_")


def model(found: model_pb2.Model) -> Row:
    return {
        "name": found.name,
        "state": _MODEL_STATES.of(found.state),
        "failure": found.failure,
        "architecture": found.architecture,
        "capabilities": [_CAPABILITIES.of(capability) for capability in found.capabilities],
        "context": found.max_context,
        "parameters": found.parameters,
        "compute": found.compute,
        "device": found.device,
        "slots": found.max_slots,
        "ready": _time(found, "ready_time"),
    }


def occupancy(found: lot_pb2.GetOccupancyResponse) -> Row:
    return {
        "models": {
            one.model: {
                "running": one.running,
                "slots": one.max_running,
                "waiting": one.waiting,
                "kv": round(one.kv_usage, 4),
            }
            for one in found.models
        },
        "open": found.open_tickets,
        "max_open": found.max_open_tickets,
        "results": found.parked_results,
        "bytes": found.parked_bytes,
        "max_bytes": found.max_parked_bytes,
    }


def pool(found: lot_pb2.Pool) -> Row:
    return {
        "name": found.name,
        "running": found.running,
        "waiting": {PRIORITIES.get(level.priority, "unknown"): level.count for level in found.waiting},
        "max_waiting": found.max_waiting,
        "draining": found.draining,
        "longest_wait": _time(found, "longest_wait"),
        "resources": [{"name": one.name, "used": one.used, "capacity": one.capacity} for one in found.resources],
    }


def ticket(found: lot_pb2.Ticket) -> Row:
    return {
        "id": found.id,
        "state": _TICKET_STATES.of(found.state),
        "priority": PRIORITIES.get(found.priority, "unknown"),
        "ahead": found.ahead,
        "submitted": _time(found, "submit_time"),
        "started": _time(found, "start_time"),
        "ended": _time(found, "end_time"),
        "expires": _time(found, "expire_time"),
    }


def lock(found: lot_pb2.LockReading) -> Row:
    return {
        "name": found.name,
        "acquisitions": found.acquisitions,
        "contended": found.contended,
        "waited": _time(found, "waited"),
        "wait_p99": _time(found, "wait_p99"),
        "held_mean": _time(found, "held_mean"),
    }


def upstream(found: upstream_pb2.Upstream) -> Row:
    return {
        "name": found.name,
        "state": _UPSTREAM_STATES.of(found.state),
        "failure": found.failure,
        "transport": found.transport,
        "tools": found.tools,
        "server": found.server_name,
        "version": found.server_version,
        "protocol": found.protocol_version,
        "breaker": _BREAKER_STATES.of(found.breaker) if found.breaker else None,
        "breaker_retry": _time(found, "breaker_retry_time"),
        "since": _time(found, "state_time"),
        "next_attempt": _time(found, "next_attempt_time"),
        "last_success": _time(found, "last_success_time"),
    }


def _time(message: Any, field: str) -> float | None:
    """A timestamp or a duration."""
    if not message.HasField(field):
        return None
    found: _Time = getattr(message, field)
    return round(found.seconds + found.nanos * 1e-9, 9)
