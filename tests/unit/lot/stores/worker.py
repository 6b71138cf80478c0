"""A server that works tickets off, and may be told when to die: `worker URL NAME [POINT COUNT]`.

A ticket's work is as many events as its request says; a second attempt goes on behind the kept ones. What is safe is
said on standard output, a line each.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from typing import Any

import psycopg
from narthex_server.errors import Unavailable
from narthex_server.lot.stores.postgres.location import Location
from narthex_server.lot.stores.postgres.tickets import PostgresTickets
from narthex_server.lot.stores.store import Lease, LeaseLost
from narthex_server.lot.ticket import Outcome, Quota, State, Ticket

LEASE_S = 2.0


class Fate:
    """Kills the process, as nothing can prevent, when a point is reached for the n-th time."""

    def __init__(self, point: str, count: int) -> None:
        self._point, self._count = point, count
        self._passed: Counter[str] = Counter()

    def reach(self, point: str) -> None:
        self._passed[point] += 1
        if point == self._point and self._passed[point] == self._count:
            os.kill(os.getpid(), signal.SIGKILL)


def guarded(fate: Fate) -> None:
    """The commit of a transaction has two points of its own."""
    execute = psycopg.AsyncConnection.execute

    async def watched(self: Any, query: Any, *values: Any, **how: Any) -> Any:
        if query == b"COMMIT":
            fate.reach("commit")
        done = await execute(self, query, *values, **how)
        if query == b"COMMIT":
            fate.reach("committed")
        return done

    psycopg.AsyncConnection.execute = watched  # type: ignore[method-assign]


async def persist(ask: Any) -> Any:
    """Asks until the database answers."""
    while True:
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(0.1)


async def work(store: PostgresTickets, ticket: Ticket, name: str, fate: Fate) -> None:
    order = ticket.order
    lease = Lease(order.tenant, order.id, ticket.attempt)
    count = int(order.request)
    try:
        kept = len(await persist(lambda: store.events(order.tenant, order.id, 0, 1 << 20)))
        for number in range(kept, count):
            event = f"{order.id} {number}"
            last = await persist(lambda: store.append(lease, [event.encode()]))  # noqa: B023 (awaited)
            assert last == number + 1
            print("kept", event, flush=True)
            fate.reach("append")
        await persist(lambda: store.finish(lease, Outcome(State.DONE)))
        print("done", order.id, ticket.attempt, name, flush=True)
        fate.reach("finish")
    except LeaseLost:
        print("lost", order.id, flush=True)


async def main(url: str, name: str, point: str = "", count: str = "0") -> None:
    fate = Fate(point, int(count))
    guarded(fate)
    store = PostgresTickets(Location.parse(url), Quota())
    print("ready", flush=True)
    while True:
        tickets = await persist(lambda: store.take(8, LEASE_S))
        fate.reach("take")
        if not tickets:
            await asyncio.sleep(0.1)
        async with asyncio.TaskGroup() as group:
            for ticket in tickets:
                group.create_task(work(store, ticket, name, fate))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
