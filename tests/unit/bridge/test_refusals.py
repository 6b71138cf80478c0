"""What the server's refusals become in HTTP."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.server.connection import from_status


def failed(reason: str, *more) -> BackendError:
    status = Status(code=8, message="full")
    for detail in (ErrorInfo(reason=reason, domain="narthex"), *more):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return from_status(grpc.StatusCode.RESOURCE_EXHAUSTED, status.SerializeToString(), "r")


@pytest.mark.parametrize(("milliseconds", "told"), [(100, "1"), (1000, "1"), (7200, "8")])
def test_the_time_to_come_again_is_the_servers(milliseconds, told):
    retry = RetryInfo(retry_delay=Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000))
    refusal = Refusal.of(failed("QUEUE_FULL", retry))
    assert (refusal.status, refusal.headers) == (429, (("retry-after", told),))


def test_a_second_is_told_where_the_server_says_nothing():
    assert Refusal.of(failed("QUEUE_FULL")).headers == (("retry-after", "1"),)
    assert rpc_error(failed("QUEUE_FULL"), "r").data["retryable"] is True


def test_what_never_fits_is_not_to_be_tried_again():
    failure = failed("TOO_LARGE")
    refusal = Refusal.of(failure)
    assert (refusal.status, refusal.headers, refusal.reason) == (413, (), "TOO_LARGE")
    assert rpc_error(failure, "r").data["retryable"] is False
