"""What locks cost: `python -m bench locks`.

Nanoseconds for each time that a lock is taken and given back: alone, of the processor's time, and by several threads
that do nothing else, of the clock on the wall; each the best of several rounds. The ratio is to threading.Lock. Needs
the standard library alone, so that any interpreter can run it: `PYTHONPATH=server python bench/locks.py`.
"""

import asyncio
import sys
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from time import perf_counter, thread_time_ns

from narthex_server.sync.locks import Locks
from narthex_server.sync.meter import Meter
from narthex_server.sync.mutex import WaitingMutex

Made = Callable[[], AbstractContextManager[object]]
METERED, OFF, PLAIN = Locks("metered"), Locks("off"), Locks("plain")
KINDS: dict[str, Made] = {
    "threading.Lock": threading.Lock,
    "threading.RLock": threading.RLock,
    "mutex, plain": lambda: PLAIN.mutex("a"),
    "mutex, off": lambda: OFF.mutex("a"),
    "mutex, waits alone": lambda: WaitingMutex(Meter("a")),
    "mutex, metered": lambda: METERED.mutex("a"),
    "shared, plain, read": lambda: PLAIN.shared("a").read,
    "shared, off, read": lambda: OFF.shared("a").read,
    "shared, metered, read": lambda: METERED.shared("a").read,
    "shared, metered, write": lambda: METERED.shared("a").write,
}
ASYNC_KINDS: dict[str, Callable[[], AbstractAsyncContextManager[object]]] = {
    "asyncio.Lock": asyncio.Lock,
    "async mutex, off": lambda: OFF.async_mutex("a"),
    "async mutex, metered": lambda: METERED.async_mutex("a"),
}
MEMORY: dict[str, Callable[[], object]] = {
    "threading.Lock": threading.Lock,
    "mutex, metered": lambda: METERED.mutex("m"),
    "shared, off": lambda: OFF.shared("m"),
    "shared, metered": lambda: METERED.shared("m"),
    "asyncio.Lock": asyncio.Lock,
    "async mutex, off": lambda: OFF.async_mutex("m"),
    "async mutex, metered": lambda: METERED.async_mutex("m"),
}
ROUNDS, TIMES, MANY = 300, 1_000, 40_000
THREADS = (2, 8, 32)


def main() -> None:
    is_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    print(f"Python {sys.version.split()[0]} {'with' if is_enabled() else 'without'} a GIL\n")
    one = alone({name: made() for name, made in KINDS.items()})
    many = {
        name: [min(together(made(), threads) for _ in range(3)) for threads in THREADS] for name, made in KINDS.items()
    }
    plain = "threading.Lock"
    heads = "".join(f" {threads} threads |" for threads in THREADS)
    print(f"| lock | alone | more than {plain} |{heads}\n|---|---|---|{'---|' * len(THREADS)}")
    for name, cost in one.items():
        cells = (f"{took:.0f} ns ({took / base:.2f})" for took, base in zip(many[name], many[plain], strict=True))
        print(f"| {name} | {cost:.0f} ns | {cost - one[plain]:+.0f} ns | {' | '.join(cells)} |")
    print("\n| lock of tasks | alone | 8 tasks |\n|---|---|---|")
    for name, make in ASYNC_KINDS.items():
        cost, crowded = asyncio.run(in_a_loop(make))
        print(f"| {name} | {cost:.0f} ns | {crowded:.0f} ns |")
    print("\n| lock | memory |\n|---|---|")
    for name, build in MEMORY.items():
        print(f"| {name} | {memory(build):.0f} bytes |")


def alone(locks: dict[str, AbstractContextManager[object]]) -> dict[str, float]:
    """Nanoseconds of the processor for each; in turns, so that a bad moment of the machine is everybody's."""
    rounds = range(TIMES)
    best = dict.fromkeys(locks, float("inf"))
    for _ in range(ROUNDS):
        for name, lock in locks.items():
            began = thread_time_ns()
            for _ in rounds:
                with lock:
                    pass
            best[name] = min(best[name], (thread_time_ns() - began) / TIMES)
    return best


def together(lock: AbstractContextManager[object], count: int) -> float:
    """Nanoseconds of the clock on the wall for each time."""
    start = threading.Barrier(count + 1)
    times = MANY // count

    def work() -> None:
        start.wait()
        for _ in range(times):
            with lock:
                pass

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    start.wait()
    began = perf_counter()
    for thread in threads:
        thread.join()
    return (perf_counter() - began) / (times * count) * 1e9


async def in_a_loop(make: Callable[[], AbstractAsyncContextManager[object]]) -> tuple[float, float]:
    """Nanoseconds for each time: by one task, the best of several rounds, and by 8 that wait for each other."""
    lock, best = make(), float("inf")
    for _ in range(ROUNDS):
        began = thread_time_ns()
        for _ in range(TIMES):
            async with lock:
                pass
        best = min(best, thread_time_ns() - began)

    async def work() -> None:
        for _ in range(1000):
            async with lock:
                await asyncio.sleep(0)

    began = perf_counter()
    await asyncio.gather(*(work() for _ in range(8)))
    return best / TIMES, (perf_counter() - began) / 8000 * 1e9


def memory(build: Callable[[], object]) -> float:
    """Bytes of one more lock, with what is counted for it."""
    build()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [build() for _ in range(1000)]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return (grown - sys.getsizeof(kept)) / len(kept)


if __name__ == "__main__":
    main()
