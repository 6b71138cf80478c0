"""Seconds as the contract's messages."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def duration(seconds: float | None) -> Duration | None:
    """To the nanosecond; None stays unset."""
    if seconds is None:
        return None
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made


def timestamp(seconds: float | None) -> Timestamp | None:
    """Of seconds since 1970, to the microsecond, which is what they have; None stays unset."""
    if seconds is None:
        return None
    made = Timestamp()
    made.FromMicroseconds(round(seconds * 1e6))
    return made
