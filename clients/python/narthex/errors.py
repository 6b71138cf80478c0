"""What a failed call raises."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError

from narthex.v1.tool_pb2 import ToolFailure

DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata in which gRPC carries a serialized google.rpc.Status."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault: `field` is a path such as `sampling.temperature`, `description` says what is wrong."""

    field: str
    description: str


class NarthexError(Exception):
    """A call failed.

    `code` is the gRPC status; `reason` the server's stable UPPER_SNAKE word for it, or the code's name where the answer
    came from elsewhere (a proxy, a broken connection); `message` is for people, `metadata` for programs; `violations`
    name the fields of the request that are at fault.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] = MappingProxyType({}),
        violations: tuple[Violation, ...] = (),
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = metadata
        self.violations = violations

    @classmethod
    def from_rpc(cls, error: AioRpcError) -> "NarthexError":
        """The same failure with its google.rpc details read; details that cannot be read are left out."""
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        try:
            for detail in _status(error).details:
                detail.Unpack(info)
                detail.Unpack(request)
        except DecodeError:
            pass
        return cls(
            error.code(),
            info.reason or error.code().name,
            error.details() or "",
            MappingProxyType(dict(info.metadata)),
            tuple(Violation(each.field, each.description) for each in request.field_violations),
        )

    @classmethod
    def from_failure(cls, failure: ToolFailure) -> "NarthexError":
        """That of one call of a batch."""
        code = next((code for code in grpc.StatusCode if code.value[0] == failure.code), grpc.StatusCode.UNKNOWN)
        return cls(code, failure.reason, failure.message)


def _status(error: AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()
