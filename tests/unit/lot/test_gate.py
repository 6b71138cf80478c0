"""Who is let in, and when."""

from dataclasses import replace

import pytest
from narthex_server.errors import DeadlineExceeded, InvalidRequest, ResourceExhausted, Unavailable
from narthex_server.lot.gate import Gate
from narthex_server.lot.limits import Limits
from narthex_server.lot.terms import Priority, Terms

from tests.unit.lot.conftest import SPACIOUS

LOW, NORMAL, HIGH, CRITICAL = Priority


def test_what_fits_is_admitted_at_once(place):
    at = place(3)
    assert at.enter(2).admitted and at.enter(1).admitted and not at.enter(1).admitted
    assert (at.gate.used, at.gate.running, len(at.gate.line)) == ({"units": 3}, 2, 1)


def test_more_urgent_work_overtakes_and_equals_stay_in_order(place):
    at = place()
    first = at.enter()
    waiting = [at.enter(priority=priority) for priority in (LOW, NORMAL, HIGH, NORMAL, CRITICAL)]
    low, normal, high, second, critical = waiting
    assert at.serve() == [first, critical, high, normal, second, low]


def test_waiting_makes_the_first_of_a_tenant_more_urgent(place):
    at = place(limits=replace(SPACIOUS, ageing=10.0))
    running = at.enter()
    low = at.enter(priority=LOW)
    at.now = 21.0  # two levels later it is before what is high and came after it
    high = at.enter(priority=HIGH)
    at.leave(running)
    assert low.admitted and not high.admitted


def test_nobody_starves_below_a_stream_of_critical_work(place):
    at = place(limits=replace(SPACIOUS, ageing=10.0))
    running = at.enter(priority=CRITICAL)
    low = at.enter(priority=LOW, tenant="poor")
    for _ in range(1000):
        if low.admitted:
            break
        at.enter(priority=CRITICAL, tenant="rich")
        at.now += 1.0
        running = at.admitted[-1]
        at.leave(running)
    assert low.admitted and at.now < 45  # four levels of ten seconds, and one turn


def test_a_flood_of_one_tenant_does_not_age_before_anothers_work(place):
    at = place(limits=replace(SPACIOUS, ageing=1.0))
    at.enter(tenant="many")
    for _ in range(100):
        at.enter(tenant="many")
    for _ in range(50):
        at.now += 1.0
        at.leave(at.admitted[-1])
    late = at.enter(tenant="few")
    at.now += 0.5
    at.leave(at.admitted[-1])
    at.leave(at.admitted[-1])
    assert late in at.admitted


def test_two_tenants_share_by_turns_whoever_sends_more(place):
    at = place()
    at.enter(tenant="many")
    for _ in range(20):
        at.enter(tenant="many")
    for _ in range(5):
        at.enter(tenant="few")
    order = [work.tenant for work in at.serve()]
    assert order[1:11].count("few") == 5


def test_a_tenant_of_twice_the_weight_gets_twice_as_much(place):
    at = place(limits=replace(SPACIOUS, weights={"gold": 2.0}))
    at.enter()
    for _ in range(60):
        at.enter(tenant="gold")
        at.enter(tenant="tin")
    order = [work.tenant for work in at.serve()]
    assert 18 <= order[1:31].count("gold") <= 22


def test_a_tenant_saves_up_no_turns_while_it_is_away(place):
    at = place()
    at.enter(tenant="there")
    for _ in range(200):
        at.enter(tenant="there")
    for _ in range(100):
        at.leave(at.admitted[-1])
    for _ in range(50):
        at.enter(tenant="back")
    done = len(at.admitted)
    order = [work.tenant for work in at.serve()][done : done + 20]
    assert 9 <= order.count("there") <= 11


def test_large_work_counts_for_more_than_small(place):
    at = place(10)
    at.enter(10, tenant="first")
    for _ in range(10):
        at.enter(5, tenant="large")
    for _ in range(50):
        at.enter(1, tenant="small")
    order = [work.tenant for work in at.serve()]
    assert 13 <= order[1:19].count("small") <= 17


def test_small_work_passes_a_large_one_for_a_while_and_then_no_more(place):
    at = place(10, replace(SPACIOUS, patience=5.0))
    first = at.enter(4)
    second = at.enter(4)
    large = at.enter(8)
    small = [at.enter(2), at.enter(2)]
    assert small[0].admitted and not small[1].admitted and not large.admitted
    at.now = 5.0
    at.leave(small[0])  # there is room for the next small one, but the large one was passed five seconds ago
    assert not small[1].admitted
    at.leave(first)
    assert not small[1].admitted and not large.admitted
    at.leave(second)
    assert large.admitted and small[1].admitted


def test_patience_does_not_begin_while_nobody_passes(place):
    at = place(10, replace(SPACIOUS, patience=5.0))
    at.enter(4)
    large = at.enter(8)
    at.now = 100.0
    assert at.enter(2).admitted and large.passed == 100.0


def test_what_a_permit_turns_out_to_cost_lets_others_in(place):
    at = place(10)
    work, waiting = at.enter(9), at.enter(5)
    at.gate.correct(work, {"units": 5}, at.now)
    assert waiting.admitted and at.gate.used == {"units": 10}
    at.gate.correct(work, {"units": 8}, at.now)  # more than there is: then nothing is admitted
    at.leave(waiting)
    assert at.gate.used == {"units": 8} and not at.enter(3).admitted and at.enter(2).admitted


def test_a_raised_capacity_lets_in_and_a_lowered_one_takes_nothing_back(place):
    at = place(10)
    works = [at.enter(4) for _ in range(3)]
    at.gate.resize({"units": 4}, at.now)
    assert at.gate.used == {"units": 8}
    at.leave(works[0])
    assert at.gate.used == {"units": 4} and not works[2].admitted
    at.gate.resize({"units": 10}, at.now)
    assert works[2].admitted


@pytest.mark.parametrize("capacity", [{"units": 0}, {"units": 11}, {"nuggets": 1}, {"units": 5, "nuggets": 1}])
def test_a_capacity_that_cannot_be_changes_nothing(place, capacity):
    at = place(10)
    with pytest.raises(InvalidRequest) as caught:
        at.gate.resize(capacity, at.now)
    assert caught.value.violations and at.gate.capacity == {"units": 10}


def test_a_draining_pool_lets_nothing_in_until_it_resumes(place):
    at = place()
    running, waiting = at.enter(), at.enter()
    at.gate.drain(True, at.now)
    at.leave(running)
    with pytest.raises(Unavailable) as caught:
        at.enter()
    assert caught.value.reason == "DRAINING" and not waiting.admitted
    at.gate.drain(False, at.now)
    assert waiting.admitted


def test_what_waits_at_a_closed_pool_is_turned_away(place):
    at = place()
    running, waiting = at.enter(), at.enter()
    at.gate.close(at.now)
    assert waiting.error is not None and waiting.error.reason == "POOL_CLOSED" and running.admitted
    at.leave(running)
    assert at.gate.used == {"units": 0}
    with pytest.raises(Unavailable):
        at.enter()


def test_the_time_to_come_again_follows_what_was_observed(place):
    at = place(limits=replace(SPACIOUS, waiting=4))
    at.enter()
    for _ in range(4):
        at.enter()
    with pytest.raises(ResourceExhausted) as caught:
        at.enter()
    assert caught.value.retry_after == 1.0  # nothing is known yet
    for _ in range(20):
        at.now += 2.0
        at.leave(at.admitted[-1])
        at.enter()
    with pytest.raises(ResourceExhausted) as caught:
        at.enter()
    assert caught.value.retry_after == pytest.approx(8.0, rel=0.05)
    assert caught.value.metadata["max_waiting"] == "4"


def test_one_tenant_cannot_fill_the_line_where_it_is_told_so(place):
    at = place(limits=replace(SPACIOUS, tenant_waiting=2))
    for _ in range(3):
        at.enter(tenant="many")
    with pytest.raises(ResourceExhausted, match="of this tenant"):
        at.enter(tenant="many")
    assert at.enter(tenant="few").stage.name == "WAITING"


def test_one_tenant_cannot_fill_the_line_for_others(place):
    at = place(limits=replace(SPACIOUS, waiting=4))
    for _ in range(5):
        at.enter(tenant="many")
    with pytest.raises(ResourceExhausted):
        at.enter(tenant="many")
    assert [at.enter(tenant="few").stage.name for _ in range(2)] == ["WAITING"] * 2
    for tenant in ("few", "many"):
        with pytest.raises(ResourceExhausted):
            at.enter(tenant=tenant)
    assert at.enter(tenant="one").stage.name == "WAITING"


def test_all_of_several_resources_have_to_be_there():
    gate = Gate("p", {"slots": 2, "kv": 100}, Limits())
    first = gate.enter("t", Terms(), {"slots": 1, "kv": 90}, 0.0)
    second = gate.enter("t", Terms(), {"slots": 1, "kv": 20}, 0.0)
    assert first.admitted and not second.admitted
    assert gate.enter("t", Terms(), {"slots": 1, "kv": 5}, 0.0).admitted
    with pytest.raises(ResourceExhausted) as caught:
        gate.enter("t", Terms(), {"slots": 1, "kv": 101}, 0.0)
    assert caught.value.metadata == {"pool": "p", "limit": "kv", "requested": "101", "maximum": "100"}


def test_work_that_is_late_is_neither_taken_nor_let_in(place):
    at = place()
    running = at.enter()
    waiting = at.enter(deadline=5.0)
    at.now = 5.0
    at.leave(running)
    assert isinstance(waiting.error, DeadlineExceeded) and at.gate.used == {"units": 0}
    with pytest.raises(DeadlineExceeded):
        at.enter(deadline=5.0)


def test_a_pool_for_something_else_of_the_same_name_keeps_what_it_admitted(place):
    at = place(2)
    works = [at.enter() for _ in range(4)]
    at.gate.refit({"units": 3}, SPACIOUS, at.now)
    at.look()
    assert works[2].admitted and not works[3].admitted
    at.gate.refit({"units": 1}, SPACIOUS, at.now)
    at.leave(works[0], works[1])
    assert not works[3].admitted
    at.leave(works[2])
    assert works[3].admitted


def test_it_may_be_made_of_something_else_then(place):
    at = place(2)
    running, waiting = at.enter(2), at.enter(1)
    at.gate.refit({"slots": 1}, SPACIOUS, at.now)
    assert waiting.error is not None and waiting.error.reason == "TOO_LARGE"
    assert at.gate.enter("t", Terms(), {"slots": 1}, at.now).admitted
    at.leave(running)
    assert at.gate.used == {"slots": 1, "units": 0}


def test_urgent_work_is_admitted_as_if_what_gives_way_were_not_there(place):
    at = place(2, replace(SPACIOUS, gives_way=True))
    low, normal = at.enter(priority=LOW), at.enter()
    waiting = at.enter(priority=LOW)
    assert at.enter(priority=HIGH).admitted and at.gate.used == {"units": 3}
    assert not at.enter(priority=HIGH).admitted  # beside what does not give way there is no room
    at.leave(normal)
    assert at.gate.used == {"units": 3} and not waiting.admitted
    at.leave(low)
    assert not waiting.admitted  # two that are urgent are as many as there is room for


def test_nothing_goes_beyond_the_capacity_where_nothing_gives_way(place):
    at = place()
    at.enter(priority=LOW)
    assert not at.enter(priority=CRITICAL).admitted


def test_what_gives_way_does_not_starve_below_urgent_work(place):
    at = place(limits=replace(SPACIOUS, gives_way=True, ageing=10.0, patience=2.0))
    first = at.enter(priority=LOW)
    second = at.enter(priority=LOW)
    running = at.enter(priority=HIGH)
    at.leave(first)
    for _ in range(100):
        if second.admitted:
            break
        at.enter(priority=HIGH)
        at.now += 1.0
        at.leave(running)
        running = at.admitted[-1]
    assert second.admitted and at.now < 35  # two levels of ten seconds, the patience, and one turn
