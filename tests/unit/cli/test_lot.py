"""What `narthex lot` prints and sends."""

import argparse

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from narthex.cli import lot
from narthex.v1 import common_pb2 as common
from narthex.v1 import lot_pb2 as wire


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    lot.add(parser)
    return parser.parse_args(words)


def test_a_pool_is_one_line():
    pool = wire.Pool(
        name="model/demo",
        resources=[wire.PoolResource(name="slots", used=2, capacity=8, max_capacity=8)],
        running=2,
        waiting=[
            wire.WaitingWork(priority=common.PRIORITY_CRITICAL, count=1),
            wire.WaitingWork(priority=common.PRIORITY_BATCH, count=3),
        ],
        max_waiting=256,
        longest_wait=Duration(seconds=1, nanos=250_000_000),
    )
    assert lot.pool_line(pool).split("\t") == [
        "model/demo", "slots 2/8", "2 running", "4 of 256 waiting (1 critical, 3 batch; 1.2 s)",
    ]  # fmt: skip
    idle = wire.Pool(name="upstream/files", max_waiting=9, draining=True)
    assert lot.pool_line(idle) == "upstream/files\t0 running\t0 of 9 waiting\tdraining"


def test_a_ticket_is_one_line():
    ticket = wire.Ticket(
        id="t1", state=wire.TICKET_STATE_WAITING, priority=common.PRIORITY_INTERACTIVE, ahead=3,
        submit_time=Timestamp(seconds=86400),
    )  # fmt: skip
    assert lot.ticket_line(ticket).split("\t") == [
        "t1", "waiting", "interactive", "3 ahead", "submitted 1970-01-02 00:00:00Z",
    ]  # fmt: skip


def test_capacities_are_resources_and_numbers():
    arguments = parsed("resize", "model/demo", "slots=4", "kv_tokens=1000")
    assert dict(arguments.capacity) == {"slots": 4, "kv_tokens": 1000}
    for wrong in ("slots", "slots=", "=4", "slots=0", "slots=-1", "slots=many"):
        with pytest.raises(SystemExit):
            parsed("resize", "model/demo", wrong)


def test_all_pools_are_meant_where_none_is_named():
    assert parsed("drain").pool == "" and parsed("resume", "model/demo").pool == "model/demo"
    assert parsed("list", "--state", "input-required").state == ["input-required"]
