import asyncio
import threading

import pytest
from narthex_server.sync.locks import UNMETERED, Locks

from tests.unit.sync.waiting import held


def test_locks_of_one_name_are_read_as_one_and_by_name():
    locks = Locks("metered")
    for name in ("b", "a", "b"):
        with locks.mutex(name):
            pass
    assert [(one.name, one.acquisitions) for one in locks.readings()] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("mode", ["off", "plain"])
async def test_what_does_not_count_has_no_readings(mode):
    locks = Locks(mode)
    with locks.mutex("a"), locks.shared("b").write, locks.condition("c"):
        async with locks.async_mutex("d"), locks.async_condition("e"):
            assert locks.readings() == []


async def test_every_kind_counts():
    locks = Locks("metered")
    shared = locks.shared("b")
    with locks.mutex("a"), shared.write, locks.condition("c"):
        async with locks.async_mutex("d"), locks.async_condition("e"):
            pass
    with shared.read:
        pass
    found = {one.name: (one.acquisitions, one.contended, one.holds.count) for one in locks.readings()}
    assert found == {"a": (1, 0, 1), "b": (2, 0, 1), "c": (1, 0, 1), "d": (1, 0, 1), "e": (1, 0, 1)}


def test_plain_is_the_standard_librarys():
    locks = Locks("plain")
    assert isinstance(locks.mutex("a"), type(threading.Lock()))
    assert isinstance(locks.async_mutex("a"), asyncio.Lock)
    assert isinstance(locks.condition("a"), threading.Condition)
    assert isinstance(locks.async_condition("a"), asyncio.Condition)
    shared = locks.shared("a")
    assert shared.read is shared.write


def test_the_default_keeps_threads_apart_too():
    mutex = UNMETERED.mutex("a")
    with held(mutex):
        assert not mutex.acquire(blocking=False)  # type: ignore[attr-defined]
    assert UNMETERED.readings() == []
