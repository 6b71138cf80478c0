"""The breaker against a model that remembers everything."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from narthex_server.tools.server import BreakerState
from narthex_server.tools.upstream.breaker import SLICES, Breaker, BreakerSettings

SETTINGS = BreakerSettings(failures=3, window=10.0, open=4.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def failing(settings: BreakerSettings = SETTINGS) -> tuple[Breaker, Clock]:
    breaker = Breaker(settings, clock := Clock())
    for _ in range(settings.failures):
        breaker.admit().end(False)
    return breaker, clock


def test_it_opens_at_the_last_failure_and_says_when_to_come_back():
    breaker, clock = failing()
    assert breaker.state is BreakerState.OPEN and breaker.trips == 1
    assert breaker.admit() is None
    clock.now = 1.5
    assert breaker.retry_after == 2.5


def test_failures_that_are_long_ago_do_not_count():
    breaker = Breaker(SETTINGS, clock := Clock())
    for _ in range(10):
        breaker.admit().end(False)
        clock.now += 5.0
    assert breaker.state is BreakerState.CLOSED


def test_a_few_failures_among_many_good_calls_shut_nothing():
    breaker = Breaker(SETTINGS, Clock())
    for number in range(1000):
        breaker.admit().end(number % 10 != 0)
    assert breaker.state is BreakerState.CLOSED


def test_half_open_it_lets_one_call_through_whose_success_closes_it():
    breaker, clock = failing()
    clock.now = 4.0
    assert breaker.state is BreakerState.HALF_OPEN and breaker.retry_after == 0
    probe = breaker.admit()
    assert breaker.admit() is None and 0 < breaker.retry_after <= 1
    probe.end(True)
    assert breaker.state is BreakerState.CLOSED and breaker.admit() is not None


def test_a_probe_that_fails_opens_it_for_the_whole_time_again():
    breaker, clock = failing()
    clock.now = 5.0
    breaker.admit().end(False)
    assert (breaker.state, breaker.retry_after, breaker.trips) == (BreakerState.OPEN, 4.0, 2)


def test_a_probe_that_says_nothing_leaves_room_for_another():
    breaker, clock = failing()
    clock.now = 4.0
    breaker.admit().end(None)
    assert breaker.state is BreakerState.HALF_OPEN and breaker.admit() is not None


def test_calls_from_before_it_opened_say_nothing_about_the_probe():
    breaker = Breaker(SETTINGS, clock := Clock())
    admissions = [breaker.admit() for _ in range(5)]
    late, failed = admissions[:2], admissions[2:]
    for admission in failed:
        admission.end(False)
    clock.now = 4.0
    probe = breaker.admit()
    for admission in late:
        admission.end(True)
    assert breaker.state is BreakerState.HALF_OPEN and breaker.admit() is None
    probe.end(True)
    assert breaker.state is BreakerState.CLOSED


def test_a_reset_closes_it():
    breaker, _ = failing()
    breaker.reset()
    assert breaker.state is BreakerState.CLOSED and breaker.admit() is not None


class AgainstModel(RuleBasedStateMachine):
    """The model keeps every ended call and looks at all of them each time."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker(SETTINGS, self.clock)
        self.ended: list[tuple[int, bool]] = []  # the slice of time, and how it went, since it last closed
        self.opened: float | None = None
        self.probe = None
        self.running = []
        self.stale = frozenset()

    @property
    def expected(self) -> BreakerState:
        if self.opened is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.clock.now - self.opened < SETTINGS.open else BreakerState.HALF_OPEN

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.0, 4.0, 9.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def call(self) -> None:
        admitted = self.breaker.admit()
        may = self.expected is BreakerState.CLOSED or (self.expected is BreakerState.HALF_OPEN and self.probe is None)
        assert (admitted is not None) == may
        if admitted is not None:
            if self.opened is not None:
                self.probe = admitted
            self.running.append(admitted)

    @rule(data=st.data(), good=st.sampled_from([True, False, None]))
    def end(self, data: st.DataObject, good: bool | None) -> None:
        if not self.running:
            return
        admission = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        admission.end(good)
        if admission is self.probe:
            self.probe = None
            if good is not None:
                self.turn(None if good else self.clock.now)
        elif self.opened is None and admission not in self.stale and good is not None:
            number = int(self.clock.now * SLICES / SETTINGS.window)
            self.ended.append((number, good))
            recent = [went for when, went in self.ended if when > number - SLICES]
            if not good and recent.count(False) >= SETTINGS.failures and recent.count(False) * 2 >= len(recent):
                self.turn(self.clock.now)

    def turn(self, opened: float | None) -> None:
        """Whatever still runs belongs to the time before."""
        self.opened, self.ended, self.probe = opened, [], None
        self.stale = frozenset(self.running)

    @invariant()
    def states_agree(self) -> None:
        assert self.breaker.state is self.expected
        assert (self.breaker.retry_after > 0) == (
            self.expected is BreakerState.OPEN or (self.expected is BreakerState.HALF_OPEN and self.probe is not None)
        )


TestAgainstModel = AgainstModel.TestCase
