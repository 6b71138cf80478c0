import threading

import pytest
from narthex_server.sync.locks import Locks

from tests.unit.sync.waiting import until

MODES = ("metered", "off", "plain")


@pytest.mark.parametrize("mode", MODES)
def test_those_who_wait_are_woken_in_order_one_by_one(mode):
    condition = Locks(mode).condition("c")
    woken: list[int] = []
    waiting: list[int] = []

    def wait(number: int) -> None:
        with condition:
            waiting.append(number)
            condition.wait()
            woken.append(number)

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=wait, args=(number,), daemon=True))
        threads[-1].start()
        until(lambda number=number: number in waiting)
        with condition:  # which is free only once that thread waits
            pass
    for count in range(1, 5):
        with condition:
            condition.notify()
        until(lambda count=count: len(woken) == count)
    assert woken == [0, 1, 2, 3]
    for thread in threads:
        thread.join(20)


@pytest.mark.parametrize("mode", MODES)
def test_a_predicate_is_waited_for_and_time_runs_out(mode):
    condition = Locks(mode).condition("c")
    with condition:
        assert not condition.wait(0.001)
        assert not condition.wait_for(lambda: 0, 0.001)
        assert condition.wait_for(lambda: 7) == 7


def test_its_lock_is_counted_and_the_wait_for_the_condition_is_not():
    locks = Locks("metered")
    condition = locks.condition("c")
    with condition:
        condition.wait(0.01)
    (reading,) = locks.readings()
    assert reading.name == "c"
    assert reading.acquisitions == 2
    assert reading.contended == 0
