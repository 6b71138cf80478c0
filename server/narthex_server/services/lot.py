"""LotService: the RPCs of tickets and locks together."""

from narthex.v1 import lot_pb2 as wire

from narthex_server.pipelines.models import Models
from narthex_server.services.complete import complete
from narthex_server.services.locks import LockRpcs
from narthex_server.services.tickets import Office, Tickets
from narthex_server.sync.locks import Locks


@complete(wire.DESCRIPTOR.services_by_name["LotService"])
class LotService(Tickets, LockRpcs):
    """What a server has of it."""

    def __init__(self, office: Office, models: Models, locks: Locks) -> None:
        Tickets.__init__(self, office, models)
        LockRpcs.__init__(self, locks)
