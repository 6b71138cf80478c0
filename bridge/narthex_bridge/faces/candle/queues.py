"""/v1/queues and /v1/queues/{model}."""

from collections.abc import Sequence
from typing import Any

import orjson
from narthex.v1 import lot_pb2 as wire

from narthex_bridge.faces.candle.mailbox import LEVELS
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.server.lot import Lot

_POOL = "model/"


class QueuesEndpoint:
    """What waits for each model, and what it has room for."""

    def __init__(self, lot: Lot) -> None:
        self._lot = lot

    async def list(self, http: HttpRequest) -> HttpResponse:
        return HttpResponse(200, orjson.dumps({"object": "list", "data": await self._queues(http)}))

    async def get(self, http: HttpRequest) -> HttpResponse:
        model = http.path["model"]
        for queue in await self._queues(http):
            if queue["model"] == model:
                return HttpResponse(200, orjson.dumps(queue))
        raise Refusal(404, f"There is no queue of a model {model!r:.160}.", param="model", reason="MODEL_NOT_FOUND")

    async def _queues(self, http: HttpRequest) -> Sequence[dict[str, Any]]:
        found = await self._lot.list_pools(http.caller, http.request_id, wire.ListPoolsRequest())
        return [_queue(pool) for pool in found.pools if pool.name.startswith(_POOL)]


def _queue(pool: wire.Pool) -> dict[str, Any]:
    waiting = {LEVELS.get(level.priority, "normal"): level.count for level in pool.waiting}
    longest = pool.longest_wait
    return {
        "object": "queue",
        "model": pool.name.removeprefix(_POOL),
        "running": pool.running,
        "waiting": sum(waiting.values()),
        "waiting_by_priority": waiting,
        "max_waiting": pool.max_waiting,
        "longest_wait_s": longest.seconds + longest.nanos / 1e9 if pool.HasField("longest_wait") else None,
        "draining": pool.draining,
        "resources": {one.name: {"used": one.used, "capacity": one.capacity} for one in pool.resources},
    }
