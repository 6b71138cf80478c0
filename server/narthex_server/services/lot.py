"""LotService: the RPCs of tickets, pools and locks together."""

from narthex.v1 import lot_pb2 as wire

from narthex_server.services.complete import complete
from narthex_server.services.tickets import Tickets


@complete(wire.DESCRIPTOR.services_by_name["LotService"])
class LotService(Tickets):
    """What a server has of it."""
