import gc
import threading

import pytest
from narthex_server.sync.meter import Meter
from narthex_server.sync.mutex import MeteredMutex, WaitingMutex

from tests.unit.sync.waiting import Visitor, held


@pytest.mark.parametrize("kind", [WaitingMutex, MeteredMutex])
def test_only_one_thread_is_inside(kind):
    mutex = kind(Meter("a"))
    with held(mutex):
        second = Visitor(mutex)
        assert not mutex.acquire(blocking=False)
        assert not second.inside
    second.enter()
    second.leave()
    assert mutex.acquire(blocking=False)
    mutex.release()
    with pytest.raises(RuntimeError):
        mutex.release()


@pytest.mark.parametrize("kind", [WaitingMutex, MeteredMutex])
def test_an_exception_gives_it_back(kind):
    mutex = kind(Meter("a"))
    with pytest.raises(ZeroDivisionError), mutex:
        raise ZeroDivisionError
    assert mutex.acquire(blocking=False)


def test_who_waited_is_counted_and_who_did_not_is_not(monkeypatch):
    meter = Meter("a")
    mutex = MeteredMutex(meter)
    with mutex:
        pass
    assert (meter.reading().acquisitions, meter.reading().contended, meter.reading().wait_p99) == (1, 0, None)
    asked, times = threading.Event(), iter((10.0, 10.25))

    def clock() -> float:
        asked.set()
        return next(times)

    monkeypatch.setattr("narthex_server.sync.mutex.perf_counter", clock)
    with held(mutex):
        second = Visitor(mutex)
        assert asked.wait(20)
    second.enter()
    second.leave()
    reading = meter.reading()
    assert (reading.acquisitions, reading.contended, reading.waited, reading.wait_p99) == (3, 1, 0.25, 0.25)


def test_a_try_in_vain_is_neither_a_wait_nor_an_acquisition():
    meter = Meter("a")
    mutex = MeteredMutex(meter)
    with held(mutex):
        mutex.acquire(blocking=False)
    assert (meter.reading().acquisitions, meter.reading().contended) == (1, 0)


def test_what_was_counted_stays_when_the_locks_have_gone():
    meter = Meter("a")
    for _ in range(5):
        mutex = MeteredMutex(meter)
        with mutex:
            pass
    del mutex
    gc.collect()
    assert meter.reading().acquisitions == 5
    assert not meter._live
    assert meter.reading().holds.count == 5
