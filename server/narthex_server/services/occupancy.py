"""How full the server is, as a caller sees it who has something to submit."""

from narthex.v1 import lot_pb2 as wire

from narthex_server.pipelines.admitted import SLOTS
from narthex_server.pipelines.models import EmbedModel, Model, Models, TextModel
from narthex_server.services.relay import Context
from narthex_server.services.tickets import Office
from narthex_server.services.works.window import Window


class OccupancyRpcs:
    """The part of LotService that is about models at work, and about what the caller's tenant has."""

    def __init__(self, models: Models, office: Office) -> None:
        self._models = models
        self._window = Window(office.desk)
        self._quota = office.quota

    async def GetOccupancy(self, request: wire.GetOccupancyRequest, context: Context) -> wire.GetOccupancyResponse:
        models = [self._models.find(request.model)] if request.model else [*self._models]
        holding = await self._window.holding()
        return wire.GetOccupancyResponse(
            models=map(_occupancy, models),
            open_tickets=holding.open,
            max_open_tickets=self._quota.open,
            parked_results=holding.parked,
            parked_bytes=holding.size,
            max_parked_bytes=self._quota.size,
        )


def _occupancy(model: Model) -> wire.ModelOccupancy:
    if isinstance(model, EmbedModel):
        pool = model.pool
        return wire.ModelOccupancy(
            model=model.name, running=pool.running, max_running=pool.capacity[SLOTS], waiting=pool.waiting
        )
    stats = (model.engine if isinstance(model, TextModel) else model.handle).snapshot()
    usage = stats.kv_tokens_used / stats.kv_tokens_capacity if stats.kv_tokens_capacity else 0.0
    return wire.ModelOccupancy(
        model=model.name, running=stats.running, max_running=stats.slots, waiting=stats.waiting, kv_usage=usage
    )
