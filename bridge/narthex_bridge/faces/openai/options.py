"""How urgent a request is."""

from narthex.v1 import common_pb2 as common

from narthex_bridge.faces.body import Fields

_TIERS = {"flex": common.PRIORITY_BATCH, "priority": common.PRIORITY_INTERACTIVE}


def call_options(fields: Fields) -> common.CallOptions:
    """From `service_tier`; tiers other than flex and priority are the normal one."""
    return common.CallOptions(priority=_TIERS.get(fields.text("service_tier") or "", common.PRIORITY_NORMAL))
