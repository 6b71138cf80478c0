"""Many threads at the locks at once. Runs by itself, too, on any interpreter: `python test_stress.py [FACTOR]`."""

import random
import sys
import threading
import time
from collections.abc import Callable

from narthex_server.sync.locks import Locks
from narthex_server.sync.shared import SharedLock

FACTOR = 1
PATIENCE = 120.0


def together(*works: Callable[[], None]) -> None:
    """Runs all of them in threads that begin at one moment; raises what one of them raises."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        try:
            start.wait(PATIENCE)
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads are interrupted in the middle of things
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        sys.setswitchinterval(before)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "somebody was never woken"


def torn(numbers: list[int]) -> None:
    """Counts in a way that loses counts, and shows it, where two threads do it at once."""
    first = numbers[0]
    numbers[1] = first
    for _ in range(3):
        assert numbers[0] == numbers[1] == first, "two were inside"
    numbers[0] = numbers[1] = first + 1


def test_a_mutex_lets_one_in_and_counts_everyone():
    locks, numbers, times = Locks("metered"), [0, 0], 400 * FACTOR
    mutex = locks.mutex("a")

    def work() -> None:
        for _ in range(times):
            with mutex:
                torn(numbers)

    together(*[work] * 16)
    (reading,) = locks.readings()
    assert numbers[0] == reading.acquisitions == 16 * times
    assert reading.contended == sum(reading.waits.counts) <= reading.acquisitions
    assert reading.holds.count == reading.acquisitions // 16


def test_writers_are_alone_and_readers_see_nothing_half_done():
    locks, numbers, times = Locks("metered"), [0, 0], 200 * FACTOR
    lock = locks.shared("a")
    reading_now: list[int] = []  # append and pop of a list are atomic

    def write() -> None:
        for _ in range(times):
            with lock.write:
                assert not reading_now, "a reader beside a writer"
                torn(numbers)

    def read() -> None:
        for _ in range(times):
            with lock.read:
                reading_now.append(1)
                assert numbers[0] == numbers[1], "a writer beside a reader"
                reading_now.pop()

    together(*[write] * 6, *[read] * 10)
    (reading,) = locks.readings()
    assert numbers[0] == 6 * times
    assert reading.acquisitions == 16 * times
    assert isinstance(lock, SharedLock)
    assert lock.waiting == (0, 0)


def test_writers_come_in_in_their_order_and_before_readers_who_came_later():
    locks = Locks("metered")
    for _ in range(3 * FACTOR):
        lock = locks.shared("a")
        assert isinstance(lock, SharedLock)
        came: list[int] = []
        kinds = [random.random() < 0.5 for _ in range(16)]
        threads = []

        def visit(number: int, writes: bool, lock: SharedLock = lock, came: list[int] = came) -> None:
            with lock.write if writes else lock.read:
                came.append(number)

        with lock.write:
            for number, writes in enumerate(kinds):
                before = sum(lock.waiting)
                threads.append(threading.Thread(target=visit, args=(number, writes), daemon=True))
                threads[-1].start()
                while sum(lock.waiting) == before:
                    time.sleep(0)
        for thread in threads:
            thread.join(PATIENCE)
        writers = [number for number, writes in enumerate(kinds) if writes]
        assert came[: len(writers)] == writers
        assert sorted(came) == list(range(16))


def test_no_call_of_a_condition_is_lost():
    locks, times = Locks("metered"), 150 * FACTOR
    condition, made, room = locks.condition("a"), [0], 4
    taken = [0] * 8

    def make() -> None:
        for _ in range(times * 2):
            with condition:
                condition.wait_for(lambda: made[0] < room)
                made[0] += 1
                condition.notify_all()

    def take(number: int) -> None:
        for _ in range(times):
            with condition:
                condition.wait_for(lambda: made[0] > 0)
                made[0] -= 1
                taken[number] += 1
                condition.notify_all()

    together(*[make] * 4, *[lambda number=number: take(number) for number in range(8)])
    assert taken == [times] * 8
    assert made == [0]


def test_readings_never_fall_while_locks_come_and_go():
    locks, over, seen = Locks("metered"), threading.Event(), [0]

    def come_and_go() -> None:
        for _ in range(60 * FACTOR):
            mutex = locks.mutex("a")
            for _ in range(5):
                with mutex:
                    pass

    def look() -> None:
        while not over.is_set():
            for reading in locks.readings():
                assert reading.acquisitions >= seen[0]
                seen[0] = reading.acquisitions

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    together(*[come_and_go] * 8)
    over.set()
    watcher.join(PATIENCE)
    (reading,) = locks.readings()
    assert reading.acquisitions == 8 * 60 * FACTOR * 5


if __name__ == "__main__":
    FACTOR = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    is_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    print(sys.version, "with" if is_enabled() else "without", "a GIL")
    passed = 0
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            began = time.perf_counter()
            test()
            passed += 1
            print(f"{name}: passed in {time.perf_counter() - began:.1f} s", flush=True)
    print(f"{passed} passed, 0 failed")
