"""Calls that become tickets, where the work is begun more than once."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from narthex.keys import Key, KeyRing
from narthex.scopes import ToolScope
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import lot_pb2 as lot
from narthex_server.errors import AlreadyExists, NotFound, Unavailable
from narthex_server.lot.crew import Crew
from narthex_server.lot.desk import Desk, Kept
from narthex_server.lot.news import News
from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.ticket import Quota, State
from narthex_server.lot.transition import Observers
from narthex_server.principal import CALLER, REQUEST_ID, Principal
from narthex_server.services.relay import RelayedContext
from narthex_server.services.works.generate import GenerateWork
from narthex_server.services.works.orders import Orders
from narthex_server.services.works.parking import LotParking
from narthex_server.services.works.rights import KeyRights, Rights
from narthex_server.services.works.works import MOST_ATTEMPTS, Works
from narthex_server.tools.acts import Unrecorded

KEYED = common.CallOptions(idempotency_key="k")
EVERYBODY = KeyRights(KeyRing(()), required=False)


class Spoken(GenerateWork):
    """Says words, the last of which only when it may; `repeatable` is what it claims."""

    def __init__(self, words: Sequence[str], *, repeatable: bool = True) -> None:
        self.words = words
        self.repeatable = repeatable
        self.said, self.go_on = asyncio.Event(), asyncio.Event()

    async def check(self, request: Any) -> bool:
        return self.repeatable

    def acted(self, request: Any, events: Sequence[Any]) -> bool:
        return bool(events)

    async def run(self, request: Any, context: Any) -> AsyncGenerator[wire.GenerateStreamResponse]:
        yield wire.GenerateStreamResponse(started=wire.Started(request_id=REQUEST_ID.get()))
        for word in self.words:
            if word is self.words[-1]:
                self.said.set()
                await self.go_on.wait()
            yield wire.GenerateStreamResponse(text_delta=common.TextDelta(text=word))
        yield wire.GenerateStreamResponse(finished=common.Finished())


@asynccontextmanager
async def served(path: Path, kind: Spoken, rights: Rights = EVERYBODY) -> AsyncIterator[tuple[LotParking, Desk]]:
    store, news, observer = SqliteTickets(path, Quota()), News(), Observers()
    works = Works(lambda error: Status(code=9, message=str(error)), rights)
    works.add(kind)
    crew = Crew(store, works, news, observer, most=4, lease=30.0)
    desk = Desk(store, crew, news, observer)
    crew.start()
    yield LotParking(desk, works, Orders(), Unrecorded()), desk
    await crew.drain(0)
    await store.close()


def request() -> wire.GenerateStreamRequest:
    return wire.GenerateStreamRequest(spec=wire.GenerationSpec(text="x"), options=KEYED)


def context() -> Any:
    return RelayedContext((), None)


async def begun(path: Path, kind: Spoken, rights: Rights = EVERYBODY) -> None:
    """A server that stops in the middle of the work."""
    REQUEST_ID.set("t")
    async with (
        served(path, kind, rights) as (parking, _),
        aclosing(parking.stream("generate", request(), context())) as events,
    ):
        await anext(events)
        await anext(events)
        await kind.said.wait()


def texts(events: Sequence[Any]) -> str:
    return "".join(event.text_delta.text for event in events)


@pytest.mark.parametrize(("again", "text"), [(["a", "bc"], "abc"), (["abc"], "abc"), (["x", "y"], "xy")])
async def test_a_second_attempt_goes_on_or_takes_the_firsts_place(tmp_path: Path, again: list[str], text: str) -> None:
    await begun(tmp_path / "t.sqlite", Spoken(["a", "b"]))
    kind = Spoken(again)
    kind.go_on.set()
    async with served(tmp_path / "t.sqlite", kind) as (parking, desk):
        REQUEST_ID.set("another")
        reply = await parking.result("generate", request(), context())
        assert (reply.text, reply.request_id) == (text, "t")
        async with aclosing(parking.stream("generate", request(), context())) as events:
            assert texts([event async for event in events]) == text
        assert (await desk.get("default", "t")).attempt == 2


async def test_whoever_has_heard_what_does_not_hold_is_told_so(tmp_path: Path) -> None:
    await begun(tmp_path / "t.sqlite", Spoken(["a", "b"]))
    kind = Spoken(["x", "y"])
    async with served(tmp_path / "t.sqlite", kind) as (parking, desk):
        async with aclosing(desk.follow("default", "t")) as told:
            async for one in told:
                if isinstance(one, Kept) and lot.WorkEvent.FromString(one.event).HasField("restarted"):
                    break
        ticket = await desk.get("default", "t")
        with pytest.raises(Unavailable, match="begun anew"):
            [_ async for _ in parking._sent(ticket, 0)]
        kind.go_on.set()


async def test_what_may_have_acted_is_interrupted(tmp_path: Path) -> None:
    await begun(tmp_path / "t.sqlite", Spoken(["a", "b"], repeatable=False))
    kind = Spoken(["a", "b"], repeatable=False)
    async with served(tmp_path / "t.sqlite", kind) as (parking, desk):
        with pytest.raises(Exception, match="may have done something already"):
            await parking.result("generate", request(), context())
        assert (await desk.get("default", "t")).state is State.FAILED
        assert not kind.said.is_set(), "it was not begun"


async def test_what_ends_its_server_each_time_is_not_begun_for_ever(tmp_path: Path) -> None:
    kind, path = Spoken(["a", "b"]), tmp_path / "t.sqlite"
    await begun(path, kind)
    for _ in range(MOST_ATTEMPTS - 1):
        kind.said.clear()
        async with served(path, kind):
            await kind.said.wait()
    kind.said.clear()
    async with served(path, kind) as (parking, desk):
        with pytest.raises(Exception, match=f"begun {MOST_ATTEMPTS} times"):
            await parking.result("generate", request(), context())
        ticket = await desk.get("default", "t")
        assert (ticket.state, ticket.attempt) == (State.FAILED, MOST_ATTEMPTS + 1)
        assert not kind.said.is_set(), "it was not begun"


async def test_work_of_a_key_that_is_gone_is_not_begun_again(tmp_path: Path) -> None:
    CALLER.set(Principal("ci", "default", key="ci"))
    await begun(tmp_path / "t.sqlite", Spoken(["a", "b"]), KeyRights(KeyRing([Key("ci", "")]), required=True))
    kind = Spoken(["a", "b"])
    async with served(tmp_path / "t.sqlite", kind, KeyRights(KeyRing(()), required=True)) as (parking, desk):
        with pytest.raises(Exception, match="is not known any more"):
            await parking.result("generate", request(), context())
        assert (await desk.get("default", "t")).state is State.FAILED
        assert not kind.said.is_set(), "it was not begun"


@pytest.mark.parametrize("other", [Principal("deploy", "default"), Principal("ci", "default", ToolScope(("time__*",)))])
async def test_another_key_of_the_tenant_has_nothing_of_a_parked_call(tmp_path: Path, other: Principal) -> None:
    CALLER.set(Principal("ci", "default"))
    kind = Spoken(["a"])
    kind.go_on.set()
    REQUEST_ID.set("t")
    async with served(tmp_path / "t.sqlite", kind) as (parking, _):
        assert (await parking.result("generate", request(), context())).text == "a"
        CALLER.set(other)
        REQUEST_ID.set("another")
        with pytest.raises(AlreadyExists, match="idempotency key"):
            await parking.result("generate", request(), context())
        with pytest.raises(NotFound):
            await anext(parking.resume("t", 0))
