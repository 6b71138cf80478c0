"""What a file of tickets can do: python -m bench tickets [--folder DIR]

Orders and events are added by one task and by fifty; tickets are taken while 10,000 wait, of one tenant and of 10,000;
large ones are added and thrown away again. Everything is on the disk of DIR, and so is what is measured of it.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import Lease
from narthex_server.lot.ticket import Order, Quota

TASKS = 50
WAITING = 10_000
EVENT = b"e" * 120
LEASE = 3600.0


def order(name: str, tenant: str = "acme", size: int = 500) -> Order:
    principal = b'{"name":"ann","tenant":"acme"}'
    return Order(name, tenant, principal, "chat", b"r" * size, b"d" * 32, time.time(), 3600.0)


async def rate(what: str, tasks: int, each: int, do: Callable[[int, int], Awaitable[object]]) -> None:
    """Does it so many times in so many tasks at once, and prints how it went."""
    took: list[float] = []

    async def work(task: int) -> None:
        for turn in range(each):
            began = time.perf_counter()
            await do(task, turn)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(work(task) for task in range(tasks)))
    seconds = time.perf_counter() - began
    took.sort()
    half, most = (took[int(len(took) * part)] * 1e3 for part in (0.5, 0.99))
    print(f"{what:<32} {tasks:>3} tasks {len(took) / seconds:>8.0f}/s   p50 {half:7.2f} ms   p99 {most:7.2f} ms")


async def fill(store: SqliteTickets, count: int, make: Callable[[int], Order]) -> None:
    for at in range(0, count, 200):
        await asyncio.gather(*(store.add(make(number)) for number in range(at, at + 200)))


def sizes(path: Path) -> str:
    """Of the file and its log, and of this process."""
    parts = [found.stat().st_size / 1e6 for found in (path, path.with_name(f"{path.name}-wal"))]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"file {parts[0]:.1f} MB, log {parts[1]:.1f} MB, process {pages * 4096 / 1e6:.1f} MB"


async def measure(path: Path) -> None:
    store = SqliteTickets(path, Quota(open=10**9, size=10**12))
    await rate("add", 1, 500, lambda task, turn: store.add(order(f"single {turn}")))
    await rate("add", TASKS, 100, lambda task, turn: store.add(order(f"{task}.{turn}")))
    for task in range(TASKS):
        await store.add(order(f"work {task}"), LEASE)
    for tasks, each in ((1, 2000), (TASKS, 400)):
        await rate("append", tasks, each, lambda task, _: store.append(Lease("acme", f"work {task}", 1), [EVENT]))
    await rate("get", 1, 1000, lambda task, turn: store.get("acme", "work 0"))
    await rate("events", 1, 1000, lambda task, turn: store.events("acme", "work 0", turn % 400, 2000))
    await fill(store, WAITING, lambda number: order(f"one {number}"))
    await rate("take 1, one tenant's wait", 1, 100, lambda task, turn: store.take(1, LEASE))
    print(sizes(path))
    await fill(store, WAITING, lambda number: order(f"of {number}", f"tenant {number}"))
    await rate("take 1, 10,000 tenants' wait", 1, 100, lambda task, turn: store.take(1, LEASE))
    await rate("take 16, 10,000 tenants' wait", 1, 50, lambda task, turn: store.take(16, LEASE))
    await rate("ahead", 1, 50, lambda task, turn: store.ahead("acme", f"one {WAITING - 1}"))
    print(sizes(path))
    await fill(store, 2000, lambda number: order(f"large {number}", "large", 100_000))
    print(f"2,000 requests of 100 kB: {sizes(path)}")
    for _ in range(2):  # ends them, and throws them away
        await asyncio.gather(*(store.cancel("large", f"large {number}") for number in range(2000)))
    began = time.perf_counter()
    await store.sweep()
    print(f"thrown away and swept in {time.perf_counter() - began:.1f} s: {sizes(path)}")
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with TemporaryDirectory(dir=asked.folder) as folder:
        path = Path(folder) / "tickets.db"
        asyncio.run(measure(path))
        print(f"closed: file {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
