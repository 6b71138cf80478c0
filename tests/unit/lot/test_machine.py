"""A gate does what a plain reference does, whatever comes in whatever order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from narthex_server.errors import NarthexError
from narthex_server.lot.gate import Gate
from narthex_server.lot.limits import Limits
from narthex_server.lot.terms import Priority, Terms
from narthex_server.lot.work import Stage, Work

from tests.unit.lot.reference import Piece, Reference, Refused

SLOTS, KV, WHICH = st.sampled_from([1, 1, 1, 2]), st.integers(0, 21), st.integers(0, 1000)
TIMES = st.sampled_from([0.0, 0.5, 1.0, 3.0, 12.0])
COMING = st.tuples(
    st.sampled_from(["a", "b", "gold"]), st.sampled_from(list(Priority)), SLOTS, KV,
    st.sampled_from([None, None, None, 0.0, 2.0, 20.0]),
)  # fmt: skip


class Machine(RuleBasedStateMachine):
    @initialize(
        slots=st.integers(1, 4), kv=st.integers(20, 40), waiting=st.integers(0, 20), own=st.sampled_from([0, 0, 6]),
        patience=st.sampled_from([0.0, 1.0, 5.0]), gives_way=st.booleans(),
    )  # fmt: skip
    def begin(self, slots: int, kv: int, waiting: int, own: int, patience: float, gives_way: bool) -> None:
        self.now = 0.0
        self.most = {"slots": slots, "kv": kv}
        limits = Limits(waiting, own, 10.0, patience, {"gold": 2.0}, gives_way)
        self.gate = Gate("p", self.most, limits)
        self.reference = Reference(dict(self.most), limits)
        self.pairs: list[tuple[Work, Piece]] = []
        self.exact = True  # nothing has grown, and the capacity was not lowered

    @rule(coming=st.lists(COMING, min_size=1, max_size=6))
    def enter(self, coming: list[tuple[str, Priority, int, int, float | None]]) -> None:
        for tenant, priority, slots, kv, patience in coming:
            cost = {"slots": slots, "kv": kv}
            deadline = None if patience is None else self.now + patience
            piece = Piece(tenant, priority, cost, deadline, len(self.pairs))
            refused = reason = ""
            try:
                self.pairs.append((self.gate.enter(tenant, Terms(priority, deadline), cost, self.now), piece))
            except NarthexError as error:
                reason = error.reason
            try:
                self.reference.enter(piece, self.now)
            except Refused as error:
                refused = str(error)
            assert reason == refused

    @rule(which=WHICH, passed=TIMES)
    def finish(self, which: int, passed: float) -> None:
        self.now += passed
        if running := [pair for pair in self.pairs if pair[0].admitted]:
            self.leave(*running[which % len(running)])

    @rule(which=WHICH)
    def abandon(self, which: int) -> None:
        if self.pairs:
            self.leave(*self.pairs[which % len(self.pairs)])

    def leave(self, work: Work, piece: Piece) -> None:
        self.gate.leave(work, self.now)
        self.reference.leave(piece, self.now)

    @rule(which=WHICH, slots=SLOTS, kv=KV)
    def correct(self, which: int, slots: int, kv: int) -> None:
        if running := [pair for pair in self.pairs if pair[0].admitted]:
            work, piece = running[which % len(running)]
            cost = {"slots": slots, "kv": kv}
            self.exact = self.exact and all(cost[one] <= piece.cost[one] for one in cost)
            self.gate.correct(work, cost, self.now)
            self.reference.correct(piece, cost, self.now)

    @rule(slots=st.integers(1, 4), kv=st.integers(10, 40))
    def resize(self, slots: int, kv: int) -> None:
        wanted = {"slots": min(slots, self.most["slots"]), "kv": min(kv, self.most["kv"])}
        self.exact = self.exact and all(wanted[one] >= self.gate.capacity[one] for one in wanted)
        self.gate.resize(wanted, self.now)
        self.reference.resize(wanted, self.now)

    @rule(draining=st.sampled_from([False, False, True]))
    def drain(self, draining: bool) -> None:
        self.gate.drain(draining, self.now)
        self.reference.draining = draining
        self.reference.let_in(self.now)

    @rule(passed=TIMES)
    def wait(self, passed: float) -> None:
        self.now += passed

    @rule(passed=TIMES)
    def expire(self, passed: float) -> None:
        self.now += passed
        self.gate.expire(self.now)
        self.reference.expire(self.now)

    @invariant()
    def same(self) -> None:
        self.gate.settled()
        for work, piece in self.pairs:
            assert (work.stage is Stage.ADMITTED) == (piece in self.reference.admitted)
            assert (work.stage is Stage.WAITING) == (piece in self.reference.waiting)
            late = work.error is not None and work.error.reason == "DEADLINE_WHILE_WAITING"
            assert late == (piece in self.reference.expired)
            large = work.error is not None and work.error.reason == "TOO_LARGE"
            assert large == (piece in self.reference.refused)

    @invariant()
    def no_unit_is_lost_and_none_is_taken_twice(self) -> None:
        for resource in self.gate.capacity:
            assert self.gate.used[resource] == self.reference.used(resource)
            if self.exact:
                used = self.reference.used(resource, low=not self.gate.limits.gives_way)
                assert used <= self.gate.capacity[resource]
        assert self.gate.running == len(self.reference.admitted)
        assert len(self.gate.line) == len(self.reference.waiting)

    def teardown(self) -> None:
        if hasattr(self, "gate"):
            self.gate.drain(False, self.now)
            for _ in self.pairs:
                for work, _ in self.pairs:
                    self.gate.leave(work, self.now)
            assert set(self.gate.used.values()) == {0} and self.gate.running == len(self.gate.line) == 0


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
