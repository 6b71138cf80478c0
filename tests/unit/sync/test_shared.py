import signal
import threading

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from narthex_server.sync.locks import Locks
from narthex_server.sync.meter import Meter
from narthex_server.sync.shared import SharedLock, _Turn

from tests.unit.sync.waiting import Visitor, held, until


class Asked(Visitor):
    """A visitor that is inside or waits when it has been made."""

    def __init__(self, lock: SharedLock, *, writes: bool) -> None:
        before = sum(lock.waiting)
        super().__init__(lock.write if writes else lock.read)
        self.writes = writes
        until(lambda: self.inside or sum(lock.waiting) > before)


def test_readers_share_and_a_writer_is_alone():
    lock = SharedLock(Meter("a"))
    readers = [Asked(lock, writes=False) for _ in range(3)]
    assert all(reader.inside for reader in readers)
    writer = Asked(lock, writes=True)
    for reader in readers:
        assert not writer.inside
        reader.leave()
    writer.enter()
    late = Asked(lock, writes=False)
    assert not late.inside
    writer.leave()
    late.enter()
    late.leave()


def test_no_reader_overtakes_a_writer_and_writers_keep_their_order():
    lock = SharedLock(Meter("a"))
    first = Asked(lock, writes=False)
    others = [Asked(lock, writes=writes) for writes in (True, False, True, False, True)]
    order = []
    first.leave()
    for place in (0, 2, 4):
        others[place].enter()
        order.append([other.inside for other in others])
        others[place].leave()
    for place in (1, 3):
        others[place].enter()
        others[place].leave()
    assert order == [[True, *[False] * 4], [True, False, True, False, False], [True, False, True, False, True]]


def test_a_wait_is_counted_and_every_acquisition_is():
    meter = Meter("a")
    lock = SharedLock(meter)
    with held(lock.write):
        waiting = [Asked(lock, writes=writes) for writes in (False, True, False)]
    for one in (waiting[1], waiting[0], waiting[2]):
        one.enter()
        one.leave()
    assert meter.reading().acquisitions == 4
    assert meter.reading().contended == 3


@pytest.mark.parametrize("writes", [False, True])
def test_an_interrupt_takes_a_waiting_thread_away_and_nobody_else(writes):
    lock = SharedLock(Meter("a"))
    main = threading.get_ident()

    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError

    def behind() -> None:
        until(lambda: sum(lock.waiting) == 1)
        others.append(Asked(lock, writes=False))
        signal.pthread_kill(main, signal.SIGUSR1)

    others: list[Asked] = []
    before = signal.signal(signal.SIGUSR1, interrupt)
    first = Asked(lock, writes=not writes)
    helper = threading.Thread(target=behind, daemon=True)
    helper.start()
    try:
        with pytest.raises(InterruptedError), lock.write if writes else lock.read:
            raise AssertionError("it got in")
    finally:
        signal.signal(signal.SIGUSR1, before)
    helper.join(20)
    if writes:  # the reader waited only because of this writer: no one else has to leave first
        others[0].enter()
        others[0].leave()
    first.leave()
    others[0].enter()
    others[0].leave()
    with lock.write:
        assert lock.waiting == (0, 0)


@pytest.mark.parametrize("writes", [False, True])
def test_an_interrupt_just_after_it_was_let_in_gives_the_lock_back(monkeypatch, writes):
    class LetIn(_Turn):
        def __init__(self) -> None:
            super().__init__()
            self.wait = self._interrupted  # type: ignore[assignment]

        def _interrupted(self) -> bool:
            first.leave()
            raise InterruptedError

    lock = SharedLock(Meter("a"))
    first = Asked(lock, writes=True)
    monkeypatch.setattr("narthex_server.sync.shared._Turn", LetIn)
    with pytest.raises(InterruptedError), lock.write if writes else lock.read:
        raise AssertionError("it got in")
    with held(lock.write):
        assert lock.waiting == (0, 0)


def test_without_counts_it_is_the_same_lock():
    lock = Locks("off").shared("a")
    assert isinstance(lock, SharedLock)
    with held(lock.read):
        with lock.read:
            pass
        writer = Asked(lock, writes=True)
        assert not writer.inside
    writer.enter()
    writer.leave()


class AsTheReferenceSays(RuleBasedStateMachine):
    """Threads ask and leave in any order; those inside are the ones that three lists say."""

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter("a")
        self.lock = SharedLock(self.meter)
        self.inside: list[Asked] = []
        self.readers: list[Asked] = []
        self.writers: list[Asked] = []
        self.admitted = self.waited = 0

    @precondition(lambda self: len(self.inside) + len(self.readers) + len(self.writers) < 12)
    @rule(writes=st.booleans())
    def ask(self, writes: bool) -> None:
        free = not self.inside or (not writes and not self.inside[0].writes and not self.writers)
        visitor = Asked(self.lock, writes=writes)
        line = self.inside if free else self.writers if writes else self.readers
        line.append(visitor)
        self.admitted += free
        self.waited += not free

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        visitor = data.draw(st.sampled_from(self.inside))
        visitor.leave()
        self.inside.remove(visitor)
        if not self.inside:
            self.inside = [self.writers.pop(0)] if self.writers else self.readers
            if not self.inside or not self.inside[0].writes:
                self.readers = []
            self.admitted += len(self.inside)
        for one in self.inside:
            one.enter()

    @invariant()
    def those_inside_are_the_right_ones(self) -> None:
        assert not any(one.inside for one in (*self.readers, *self.writers))
        assert self.lock.waiting == (len(self.readers), len(self.writers))
        assert self.meter.reading().acquisitions == self.admitted

    def teardown(self) -> None:
        while self.inside:
            self.inside.pop().leave()
            if not self.inside:
                self.inside = [self.writers.pop(0)] if self.writers else self.readers
                if not self.inside or not self.inside[0].writes:
                    self.readers = []
            for one in self.inside:
                one.enter()
        assert self.meter.reading().contended == self.waited


TestAgainstTheReference = AsTheReferenceSays.TestCase
TestAgainstTheReference.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
