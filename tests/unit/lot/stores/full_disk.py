"""Fills the disk of a folder with tickets, makes room, and goes on; run as a process.

    python full_disk.py FOLDER

FOLDER is on a small disk of its own. Prints what the store said of the full disk.
"""

import asyncio
import sys
from pathlib import Path

from narthex_server.errors import Unavailable
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import Lease
from narthex_server.lot.ticket import Order, Outcome, Quota, State


def order(name: str) -> Order:
    return Order(name, "acme", b"{}", "chat", b"r" * 20_000, b"d", 0.0, 3600.0)


async def main(folder: Path) -> None:
    ballast = folder / "ballast"
    ballast.write_bytes(b"b" * 1_000_000)
    store = SqliteTickets(folder / "tickets.db", Quota())
    ticket, _ = await store.add(order("work"), 1000.0)
    lease, added, said = Lease("acme", "work", ticket.attempt), 0, ""
    while not said:
        try:
            await store.append(lease, [b"e" * 5000])
            await store.add(order(str(added)))
            added += 1
        except Unavailable as error:
            said = error.message
    for _ in range(3):
        for refused in (store.add(order("more")), store.finish(lease, Outcome(State.DONE), [b"x" * 1_000_000])):
            try:
                await refused
                raise AssertionError("there was room")
            except Unavailable as error:
                assert error.message == said
    holding = await store.holding("acme")
    assert holding.open == added + 1
    events = await store.events("acme", "work", 0, 1 << 30)
    assert added <= len(events) <= added + 1
    assert holding.size == (added + 1) * 20_000 + len(events) * 5000
    ballast.unlink()
    await store.add(order("more"))
    await store.finish(lease, Outcome(State.DONE), [b"the end"])
    assert list(await store.events("acme", "work", len(events), 100)) == [b"the end"]
    await store.close()
    store = SqliteTickets(folder / "tickets.db", Quota())
    assert (await store.holding("acme")).open == added + 1
    await store.close()
    print(said)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
