import asyncio
import threading

import pytest
from narthex_server.sync.locks import Locks
from narthex_server.sync.watchdog import Watchdog

from tests.unit.sync.waiting import Visitor, held, until


class Refused(Exception):
    pass


def refuse(line: str) -> None:
    raise Refused(line)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Kennel:
    """Watched locks, and what the watchdog said."""

    def __init__(self, mode: str = "metered") -> None:
        self.said: list[str] = []
        self.clock = Clock()
        self.dog = Watchdog(5.0, self.said.append, self.clock)
        self.locks = Locks(mode, self.dog)  # type: ignore[arg-type]


@pytest.fixture(params=["metered", "off", "plain"])
def kennel(request: pytest.FixtureRequest) -> Kennel:
    return Kennel(request.param)


def test_two_orders_are_reported_even_if_they_never_meet(kennel):
    a, b = kennel.locks.mutex("a"), kennel.locks.mutex("b")
    with a, b:
        pass
    with b, a:
        pass
    with b, a:
        pass
    (line,) = kennel.said
    assert "b (taken at test_watchdog.py:" in line
    assert ") before a (asked for at test_watchdog.py:" in line
    assert ", and a (taken" in line
    assert "test_two_orders_are_reported_even_if_they_never_meet" in line


def test_a_circle_of_three_is_found_and_an_order_is_none(kennel):
    a, b, c = (kennel.locks.mutex(name) for name in "abc")
    with a, b, c:
        pass
    with b, c:
        pass
    assert kennel.said == []
    with c, a:
        pass
    assert len(kennel.said) == 1


async def test_locks_of_tasks_and_of_threads_have_one_order(kennel):
    a, b = kennel.locks.async_mutex("a"), kennel.locks.mutex("b")
    async with a:
        with b:
            pass
    with b:
        async with a:
            pass
    assert len(kennel.said) == 1


async def test_tasks_are_told_apart(kennel):
    a, b = kennel.locks.async_mutex("a"), kennel.locks.async_mutex("b")

    async def hold(mutex: object, other: asyncio.Event, mine: asyncio.Event) -> None:
        async with mutex:  # type: ignore[attr-defined]
            mine.set()
            await other.wait()

    one, two = asyncio.Event(), asyncio.Event()
    await asyncio.gather(hold(a, one, two), hold(b, two, one))
    assert kennel.said == []


def test_what_raises_keeps_the_lock_from_being_asked_for():
    locks = Locks("metered", Watchdog(5.0, refuse))
    a, b = locks.mutex("a"), locks.shared("b")
    with a, b.read:
        pass
    with pytest.raises(Refused), b.write, a:
        pass
    with held(a), held(b.write):
        pass


def test_whoever_asks_for_what_it_has_is_reported():
    locks = Locks("metered", Watchdog(5.0, refuse))
    a, b = locks.mutex("a"), locks.shared("b")
    with pytest.raises(Refused, match="lock a, which it took at test_watchdog"), a, a:
        pass
    with pytest.raises(Refused, match="lock b"), b.read, b.write:
        pass
    with a, locks.mutex("a"):
        pass


def test_what_is_held_and_waited_for_too_long_is_reported_once_with_who_holds_it(kennel):
    mutex = kennel.locks.mutex("a")
    first = Visitor(mutex)
    first.enter()
    second = Visitor(mutex)
    until(lambda: kennel.dog._waiting)
    kennel.dog.look()
    assert kennel.said == []
    kennel.clock.now += 6
    kennel.dog.look()
    kennel.dog.look()
    waited, holds = kennel.said
    assert waited.startswith("the lock a is waited for by thread Thread-")
    assert "for 6.0 s, from waiting.py:" in waited
    assert "; held by thread Thread-" in waited
    assert holds.startswith("the lock a is held by thread")
    first.leave()
    second.enter()
    second.leave()
    kennel.clock.now += 6
    kennel.dog.look()
    assert len(kennel.said) == 2
    assert not kennel.dog._held
    assert not kennel.dog._waiting


def test_waiting_for_a_condition_is_no_wait_for_its_lock(kennel):
    condition, ready = kennel.locks.condition("a"), []

    def wait() -> None:
        with condition:
            condition.wait_for(lambda: ready)
            condition.wait(0.0)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    with condition:
        kennel.clock.now += 6
        ready.append(1)
        condition.notify()
    with condition:
        condition.notify_all()
    thread.join(20)
    kennel.dog.look()
    assert kennel.said == []
    assert not kennel.dog._held


async def test_the_same_for_tasks(kennel):
    condition, ready = kennel.locks.async_condition("a"), []

    async def wait() -> object:
        async with condition:
            return await condition.wait_for(lambda: ready)

    task = asyncio.create_task(wait())
    for _ in range(3):
        await asyncio.sleep(0)
    kennel.clock.now += 6
    kennel.dog.look()
    assert kennel.said == []
    async with condition:
        ready.append(1)
        condition.notify_all()
    assert await task == [1]
    async with condition:
        condition.notify(1)
    assert not kennel.dog._held


async def test_who_is_cancelled_waits_no_more(kennel):
    mutex = kennel.locks.async_mutex("a")

    async def enter() -> None:
        async with mutex:
            pass

    async with mutex:
        task = asyncio.create_task(enter())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        kennel.clock.now += 6
        kennel.dog.look()
    assert len(kennel.said) == 1  # that it is held


def test_it_looks_by_itself():
    said = threading.Event()
    dog = Watchdog(0.0, lambda line: said.set())
    with dog.looking(0.001), Locks("off", dog).mutex("a"):
        assert said.wait(20)
