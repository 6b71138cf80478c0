"""How work waits by the settings of a server."""

from narthex_server.config.lot import LotSettings
from narthex_server.lot.limits import Limits


def limits(settings: LotSettings, waiting: int) -> Limits:
    """Those of a pool at which so many may wait."""
    return Limits(waiting, settings.tenant_waiting, settings.ageing, settings.patience, settings.weights())
