"""The step against a table of who was told what and when: any order of calls, writes, other servers and time."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from narthex_server.principal import Principal

from tests.unit.tools.results.conftest import TTL, Scene

CALLERS = {name: Principal(name, name[0]) for name in ("a1", "a2", "b1")}
WHO = st.sampled_from(sorted(CALLERS))
SESSIONS = st.sampled_from("xy")
RAW = st.sampled_from([b"{}", b'{"n":1}', b'{"n":1.0}', b'{"n":true}', b'{"n":[1]}'])


class StepAgainstTable(RuleBasedStateMachine):
    """Each tenant has a place for each of two sessions; `renew` makes the server another there."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.scene = Scene()
        self.editions = {(tenant, session): 0 for tenant in "ab" for session in "xy"}
        self.table: dict[tuple, tuple[bytes, float]] = {}
        self.look()

    def look(self) -> None:
        self.scene.edition_of = {place: (*place, number) for place, number in self.editions.items()}

    def teardown(self) -> None:
        self.runner.close()

    @rule(who=WHO, session=SESSIONS, raw=RAW)
    def read(self, who, session, raw):
        key = (who[0], session), raw
        told, end = self.table.get(key, (b"", 0.0))
        before = self.scene.calls
        answer = self.runner.run(self.scene.ask(raw, who=CALLERS[who], session=session))
        if end > self.scene.now:
            assert answer == told and self.scene.calls == before
        else:
            assert answer == b'["%d"]' % (before + 1)
            self.table[key] = answer, self.scene.now + TTL

    @rule(who=WHO, session=SESSIONS)
    def write(self, who, session):
        self.runner.run(self.scene.ask(tool="write", who=CALLERS[who], session=session))
        self.forget((who[0], session))

    @rule(tenant=st.sampled_from("ab"), session=SESSIONS)
    def renew(self, tenant, session):
        self.editions[tenant, session] += 1
        self.look()
        self.forget((tenant, session))

    @rule(seconds=st.floats(0, 7))
    def wait(self, seconds):
        self.scene.now += seconds

    def forget(self, place) -> None:
        self.table = {key: known for key, known in self.table.items() if key[0] != place}


TestStepAgainstTable = StepAgainstTable.TestCase
TestStepAgainstTable.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
