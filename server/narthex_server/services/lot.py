"""LotService: the RPCs of tickets, pools and locks together."""

from narthex.v1 import lot_pb2 as wire

from narthex_server.lot.lot import Lot
from narthex_server.pipelines.models import Models
from narthex_server.services.complete import complete
from narthex_server.services.locks import LockRpcs
from narthex_server.services.pools import PoolRpcs
from narthex_server.services.tickets import Office, Tickets
from narthex_server.sync.locks import Locks
from narthex_server.tools.acts import Acts
from narthex_server.tools.catalog import Catalog


@complete(wire.DESCRIPTOR.services_by_name["LotService"])
class LotService(Tickets, PoolRpcs, LockRpcs):
    """All of it."""

    def __init__(self, office: Office, models: Models, locks: Locks, lot: Lot, catalog: Catalog, acts: Acts) -> None:
        Tickets.__init__(self, office, models, locks)
        PoolRpcs.__init__(self, lot, catalog, acts)
        LockRpcs.__init__(self, locks)
