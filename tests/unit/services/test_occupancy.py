"""How full a server says that it is."""

import asyncio
from pathlib import Path

from narthex.keys import KeyRing
from narthex.v1 import lot_pb2 as wire
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.embedding.head import Head, Pooling
from narthex_server.interceptors.errors import status, visible
from narthex_server.lot.crew import Crew
from narthex_server.lot.desk import Desk
from narthex_server.lot.news import News
from narthex_server.lot.pool import Pool
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.ticket import Quota
from narthex_server.lot.transition import Observers
from narthex_server.lot.webhooks import Hosts
from narthex_server.pipelines.models import EmbedModel, Models
from narthex_server.services.occupancy import OccupancyRpcs
from narthex_server.services.tickets import Office
from narthex_server.services.works.orders import Orders
from narthex_server.services.works.rights import KeyRights
from narthex_server.services.works.works import Works
from narthex_server.tools.acts import Unrecorded


class NoEncoder:
    """For an embedder that is never started."""

    hidden_size, max_len = 4, 8

    def close(self) -> None:
        pass


async def test_what_waits_at_a_pool_is_told_and_how_much_runs_at_once(serve, tmp_path: Path) -> None:
    quota = Quota(open=7, size=1 << 20)
    store = SqliteTickets(tmp_path / "tickets.sqlite", quota)
    works, news, observer = (
        Works(lambda error: status(visible(error)), KeyRights(KeyRing(()), required=False)),
        News(),
        Observers(),
    )
    desk = Desk(store, Crew(store, works, news, observer, most=1, lease=15.0), news, observer)
    pool = Pool("model/vectors", {"slots": 3})
    models = Models()
    models.add(EmbedModel("vectors", EmbedderHandle(NoEncoder(), Head(Pooling.MEAN)), None, 1, pool=pool))
    async with serve("x") as text:
        models.add(text)
        permits = [await text.engine.pool.admit({"slots": 3}), *[await pool.admit({"slots": 1}) for _ in range(3)]]
        waiting = [asyncio.create_task(one.admit({"slots": 1})) for one in (text.engine.pool, text.engine.pool, pool)]
        await asyncio.sleep(0)
        told = await OccupancyRpcs(models, Office(desk, works, Orders(), quota, Hosts(()), Unrecorded())).GetOccupancy(
            wire.GetOccupancyRequest(), None
        )
        for task in waiting:
            task.cancel()
        for permit in permits:
            permit.release()
    await store.close()
    assert [(one.model, one.running, one.max_running, one.waiting) for one in told.models] == [
        ("vectors", 3, 3, 1),
        ("qwen3", 0, 2, 2),
    ]
    assert (told.open_tickets, told.max_open_tickets, told.max_parked_bytes) == (0, 7, 1 << 20)
