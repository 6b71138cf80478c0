"""The wire's priorities and the lot's."""

from collections.abc import Mapping
from types import MappingProxyType

from narthex.v1 import common_pb2 as common

from narthex_server.lot.terms import Priority

ASKED: Mapping[common.Priority.ValueType, Priority] = MappingProxyType(
    {
        common.PRIORITY_UNSPECIFIED: Priority.NORMAL,
        common.PRIORITY_BATCH: Priority.LOW,
        common.PRIORITY_NORMAL: Priority.NORMAL,
        common.PRIORITY_INTERACTIVE: Priority.HIGH,
        common.PRIORITY_CRITICAL: Priority.CRITICAL,
    }
)
"""What a caller may say, and what that means."""

SHOWN: Mapping[Priority, common.Priority.ValueType] = MappingProxyType(
    {priority: said for said, priority in ASKED.items() if said != common.PRIORITY_UNSPECIFIED}
)
"""What a caller is told."""
