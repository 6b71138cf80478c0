import pytest
from narthex_server.sync.reading import BOUNDS, Distribution, LockReading
from narthex_server.sync.tally import SAMPLED, Spread, Tally


def spread(*times: float) -> Distribution:
    made = Spread()
    for one in times:
        made.note(one)
    return made.now()


def test_nothing_has_no_mean_and_no_share():
    assert (spread().mean, spread().below(0.99), spread().count) == (None, None, 0)


def test_a_share_is_the_bound_that_holds_it_and_never_more_than_the_longest():
    many = spread(*[0.0002] * 98, 0.003, 0.02)
    assert many.below(0.5) == 0.000_25
    assert many.below(0.99) == 0.005
    assert many.below(1.0) == 0.02
    assert spread(100.0).below(0.5) == 100.0
    assert many.mean == pytest.approx((98 * 0.0002 + 0.023) / 100)


def test_bounds_tell_a_millisecond_from_five():
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert {0.001, 0.005} <= set(BOUNDS)
    assert spread(0.001).counts.index(1) < spread(0.0011).counts.index(1) < spread(0.0051).counts.index(1)


def test_sums_have_what_both_have():
    both = spread(0.1, 2.0) + spread(0.1)
    assert (both.count, both.longest, both.total) == (3, 2.0, pytest.approx(2.2))


def test_a_reading_says_what_its_times_say():
    reading = LockReading("a", 7, spread(0.0002, 0.0004), spread(0.25))
    assert (reading.contended, reading.waited, reading.held_mean) == (2, pytest.approx(0.0006), 0.25)
    assert reading.wait_p99 == 0.0004


def test_one_hold_of_so_many_is_timed_and_the_first_one_is():
    tally = Tally()
    for taken in range(3 * SAMPLED):
        tally.took()
        tally.left()
        assert tally.holds.now().count == taken // SAMPLED + 1
    assert tally.acquisitions == 3 * SAMPLED
