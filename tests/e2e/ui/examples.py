"""A server in the middle of its work, as the page is to show it."""

import time
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from narthex.v1 import common_pb2, lot_pb2, model_pb2, upstream_pb2

from tests.unit.bridge.faces.conftest import Said
from tests.unit.bridge.ui.lot_server import LotServer

READY, LOADING = model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_LOADING
LOW, NORMAL, HIGH = common_pb2.PRIORITY_BATCH, common_pb2.PRIORITY_NORMAL, common_pb2.PRIORITY_INTERACTIVE


def busy(lot: LotServer) -> None:
    """Fills all parts, among them some that are not well."""
    lot.models = [
        model_pb2.Model(
            name="demo", state=READY, architecture="llama", compute="block8", device="cpu", max_context=2048,
            max_slots=8, capabilities=[model_pb2.CAPABILITY_CHAT], ready_time=_ago(500),
        ),
        model_pb2.Model(name="minilm", state=LOADING, architecture="bert", compute="float32", device="cpu"),
        model_pb2.Model(
            name="far", state=model_pb2.MODEL_STATE_FAILED, device="remote", failure="its engine cannot be reached"
        ),
    ]  # fmt: skip
    lot.occupancy = lot_pb2.GetOccupancyResponse(
        models=[lot_pb2.ModelOccupancy(model="demo", running=7, max_running=8, waiting=5, kv_usage=0.93)],
        open_tickets=3, max_open_tickets=100, parked_results=12, parked_bytes=71_234, max_parked_bytes=64 << 20,
    )  # fmt: skip
    lot.pools = [
        lot_pb2.Pool(
            name="model/demo", running=7, max_waiting=256, longest_wait=Duration(nanos=840_000_000),
            resources=[_resource("slots", 7, 8), _resource("kv_tokens", 15_237, 16_384)],
            waiting=[_level(HIGH, 1), _level(NORMAL, 3), _level(LOW, 1)],
        ),
        lot_pb2.Pool(
            name="upstream/time", running=1, max_waiting=256, draining=True,
            resources=[_resource("calls", 1, 64), _resource("memory", 2_048, 64 << 20)],
        ),
    ]  # fmt: skip
    lot.tickets = [
        lot_pb2.Ticket(
            id="6f1d0c9a57", state=lot_pb2.TICKET_STATE_WAITING, priority=LOW, ahead=4, submit_time=_ago(20)
        ),
        lot_pb2.Ticket(
            id="5be2a4417c", state=lot_pb2.TICKET_STATE_RUNNING, priority=NORMAL, submit_time=_ago(31),
            start_time=_ago(29.5),
        ),
        lot_pb2.Ticket(
            id="0a93ff21be", state=lot_pb2.TICKET_STATE_DONE, priority=HIGH, submit_time=_ago(400),
            start_time=_ago(399), end_time=_ago(390), expire_time=_ago(-3000),
        ),
    ]  # fmt: skip
    lot.upstreams = [
        upstream_pb2.Upstream(
            name="time", state=upstream_pb2.UPSTREAM_STATE_READY, transport="stdio", tools=2, server_name="mcp-time",
            server_version="2026.10.19", breaker=upstream_pb2.BREAKER_STATE_CLOSED, state_time=_ago(3700),
            last_success_time=_ago(12),
        ),
        upstream_pb2.Upstream(
            name="search", state=upstream_pb2.UPSTREAM_STATE_UNHEALTHY, transport="http",
            breaker=upstream_pb2.BREAKER_STATE_OPEN, state_time=_ago(75), failure="the connection was refused",
        ),
    ]  # fmt: skip
    lot.said = [
        Said.started(),
        Said.text("Work that does not fit now waits in the lot. It is not refused: its turn comes."),
        Said.finished(),
    ]
    lot.locks = [
        _lock("request_queue", 184_211, 312, 8_400),
        _lock("kv_cache", 91_804, 41, 2_100),
        _lock("adapter_manager", 620, 0, None),
    ]


def _ago(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int((time.time() - seconds) * 1e9))
    return stamp


def _resource(name: str, used: int, capacity: int) -> Any:
    return lot_pb2.PoolResource(name=name, used=used, capacity=capacity, max_capacity=2 * capacity)


def _level(priority: Any, count: int) -> Any:
    return lot_pb2.WaitingWork(priority=priority, count=count)


def _lock(name: str, taken: int, contended: int, p99_ns: int | None) -> Any:
    waited = Duration(nanos=contended * 900)
    p99 = None if p99_ns is None else Duration(nanos=p99_ns)
    return lot_pb2.LockReading(
        name=name, acquisitions=taken, contended=contended, waited=waited, wait_p99=p99, held_mean=Duration(nanos=410)
    )
