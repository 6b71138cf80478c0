"""Random work on a store and on the reference: what can be seen of them is the same."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from narthex_server.errors import NarthexError
from narthex_server.lot.stores.store import Lease, LeaseLost, TicketStore
from narthex_server.lot.terms import Priority
from narthex_server.lot.ticket import Order, Outcome, Quota, State, Webhook

from tests.unit.lot.stores.places import START, Place, ReferencePlace

TENANTS = ("a", "b", "c")
QUOTA = Quota(open=6, size=60)

seconds = st.sampled_from([0.0, 1.0, 5.0, 20.0, 100.0, 700.0])
spans = st.sampled_from([1.0, 5.0, 20.0, 100.0, 700.0])
servers = st.integers(0, 1)
contents = st.lists(st.binary(max_size=12), max_size=3)


class Machine(RuleBasedStateMachine):
    """Two servers on one place, and the reference beside them."""

    tickets = Bundle("tickets")
    leases = Bundle("leases")

    def __init__(self, make: Callable[[Path], Place]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.place, self.reference_place = make(Path(self.folder.name)), ReferencePlace()
        self.servers = [self.run(self.place.open(QUOTA)) for _ in range(2)]
        self.reference = self.run(self.reference_place.open(QUOTA))
        self.passed = 0.0
        self.added: list[tuple[str, str]] = []
        self.submitted: dict[str, float] = {}

    def run(self, work: Awaitable[Any]) -> Any:
        async def done() -> Any:
            return await work

        return self.runner.run(done())

    def both(self, server: int, ask: Callable[[TicketStore], Awaitable[Any]]) -> Any:
        """What the store and the reference both answer, or None where both refuse."""
        answers = [self.run(answer(ask(store))) for store in (self.servers[server], self.reference)]
        assert answers[0] == answers[1]
        return answers[1][1]

    @rule(
        target=tickets,
        server=servers,
        tenant=st.sampled_from(TENANTS),
        priority=st.sampled_from(Priority),
        key=st.sampled_from(["", "", "", "k", "l"]),
        digest=st.sampled_from([b"1", b"2"]),
        deadline=st.none() | seconds,
        keep=seconds,
        request=st.binary(max_size=12),
        hooked=st.booleans(),
        lease=st.none() | spans,
        reuse=st.integers(0, 9),
    )
    def add(
        self,
        server: int,
        tenant: str,
        priority: Priority,
        key: str,
        digest: bytes,
        deadline: float | None,
        keep: float,
        request: bytes,
        hooked: bool,
        lease: float | None,
        reuse: int,
    ) -> tuple[str, str]:
        name = self.added[0][1] if reuse == 0 and self.added else f"t{len(self.added):03}"
        made = Order(
            id=name,
            tenant=tenant,
            principal=b"{}",
            kind="chat",
            request=request,
            digest=digest,
            submitted=START + self.passed,
            keep=keep,
            deadline=None if deadline is None else START + self.passed + deadline,
            priority=priority,
            key=key,
            webhook=Webhook("https://example.com") if hooked else None,
        )
        self.both(server, lambda store: store.add(made, lease))
        self.added.append((tenant, name))
        self.submitted.setdefault(name, START + self.passed)
        return tenant, name

    @rule(target=leases, server=servers, most=st.integers(0, 4), lease=spans)
    def take(self, server: int, most: int, lease: float) -> Any:
        taken = self.both(server, lambda store: store.take(most, lease))
        return multiple(*(Lease(one.order.tenant, one.order.id, one.attempt) for one in taken))

    @rule(target=leases, ticket=tickets, attempt=st.integers(1, 3))
    def guess(self, ticket: tuple[str, str], attempt: int) -> Lease:
        return Lease(*ticket, attempt)

    @rule(server=servers, some=st.lists(leases, max_size=3, unique=True), lease=spans)
    def renew(self, server: int, some: list[Lease], lease: float) -> None:
        self.both(server, lambda store: store.renew(some, lease))

    @rule(server=servers, lease=leases, events=contents)
    def append(self, server: int, lease: Lease, events: list[bytes]) -> None:
        self.both(server, lambda store: store.append(lease, events))

    @rule(server=servers, lease=leases, state=st.sampled_from([State.RUNNING, State.INPUT_REQUIRED]))
    def move(self, server: int, lease: Lease, state: State) -> None:
        self.both(server, lambda store: store.move(lease, state))

    @rule(
        server=servers,
        lease=leases,
        state=st.sampled_from([State.DONE, State.FAILED, State.CANCELLED]),
        events=contents,
    )
    def finish(self, server: int, lease: Lease, state: State, events: list[bytes]) -> None:
        outcome = Outcome(state, 13, b"status") if state is State.FAILED else Outcome(state)
        self.both(server, lambda store: store.finish(lease, outcome, events))

    @rule(server=servers, lease=leases)
    def release(self, server: int, lease: Lease) -> None:
        self.both(server, lambda store: store.release(lease))

    @rule(server=servers, ticket=tickets)
    def cancel(self, server: int, ticket: tuple[str, str]) -> None:
        self.both(server, lambda store: store.cancel(*ticket))

    @rule(server=servers)
    def sweep(self, server: int) -> None:
        async def ended(store: TicketStore) -> dict[str, Any]:
            return {one.order.id: one for one in await store.sweep()}

        self.both(server, ended)

    @rule(server=servers, most=st.integers(0, 3))
    def owed(self, server: int, most: int) -> None:
        self.both(server, lambda store: store.owed(most))

    @rule(server=servers, ticket=tickets, again=st.none() | seconds)
    def told(self, server: int, ticket: tuple[str, str], again: float | None) -> None:
        self.both(server, lambda store: store.told(*ticket, again))

    @rule(by=seconds)
    def advance(self, by: float) -> None:
        self.place.advance(by)
        self.reference_place.advance(by)
        self.passed += by

    @rule(
        server=servers,
        states=st.sets(st.sampled_from(State), max_size=3),
        before=st.none() | tickets,
        most=st.integers(1, 5),
        ticket=tickets,
        after=st.integers(0, 4),
        most_bytes=st.integers(0, 30),
    )
    def look(
        self,
        server: int,
        states: set[State],
        before: tuple[str, str] | None,
        most: int,
        ticket: tuple[str, str],
        after: int,
        most_bytes: int,
    ) -> None:
        at = None if before is None else (self.submitted[before[1]], before[1])
        self.both(server, lambda store: store.list(ticket[0], states, at, most))
        self.both(server, lambda store: store.events(*ticket, after, most_bytes))

    @invariant()
    def everything_is_the_same(self) -> None:
        async def seen(store: TicketStore) -> list[Any]:
            found: list[Any] = [await store.holding(tenant) for tenant in (*TENANTS, None)]
            found += [await store.list(tenant, (), None, 100) for tenant in TENANTS]
            for tenant, name in self.added[-4:]:
                found.append(await store.get(tenant, name))
                found.append(await store.ahead(tenant, name))
                found.append(list(await store.events(tenant, name, 0, 1000)))
            return found

        self.both(0, seen)

    def teardown(self) -> None:
        for store in (*self.servers, self.reference):
            self.run(store.close())
        self.runner.close()
        self.folder.cleanup()


async def answer(asked: Awaitable[Any]) -> tuple[str, Any]:
    """What came of it, so that answers of two stores can be compared."""
    try:
        given = await asked
    except (NarthexError, LeaseLost) as error:
        return f"{type(error).__name__} {getattr(error, 'reason', '')}", ()
    return "", list(given) if isinstance(given, tuple | list) else given


def runs(make: Callable[[Path], Place], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Machine(make),
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_random_work_comes_to_the_same(make_place: Callable[[Path], Place]) -> None:
    runs(make_place, 15, 30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_much_random_work_comes_to_the_same(make_place: Callable[[Path], Place]) -> None:
    runs(make_place, 500, 60)
