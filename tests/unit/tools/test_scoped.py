import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from narthex_server.errors import DeadlineExceeded, ResourceExhausted
from narthex_server.principal import Principal
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.completion import PromptReference, Typed
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, ToolEvent, ToolResult
from narthex_server.tools.upstream.scoped import ScopedUpstream, ScopeLimits

ANN, AMY, BOB = Principal("ann", "a"), Principal("amy", "a"), Principal("bob", "b")


def context(who=ANN, session="", deadline=None):
    return CallContext(who, "test", deadline, session=session)


@pytest.fixture
def made(server):
    """Every connection that was made; the first is the one that lists."""
    return []


@pytest.fixture
def scoped(server, made):
    class Numbered(server):
        """Answers with its number, and how it was told to go."""

        slow = False

        def __init__(self) -> None:
            super().__init__("up", "who", "wait")
            self.number, self.stopped, self.reconnected = len(made), asyncio.Event(), 0
            self.ready = asyncio.Event()
            made.append(self)

        def start(self, changed) -> None:
            if self.slow and self.number:
                self._changed = changed
            else:
                super().start(changed)
                self.ready.set()

        async def settled(self) -> None:
            await self.ready.wait()

        def reconnect(self, tenant=None) -> None:
            self.reconnected += 1

        async def stop(self) -> None:
            self.stopped.set()
            await super().stop()

        async def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncIterator[ToolEvent]:
            if tool == "wait":
                await asyncio.Event().wait()
            yield ToolResult(b"[]", str(self.number).encode())

    def make(scope="tenant", slow=False, **limits):
        Numbered.slow = slow
        upstream = ScopedUpstream(scope, Numbered, ScopeLimits(**limits))
        upstream.start(lambda: None)
        return upstream

    return make


async def who(upstream, context) -> int:
    return int([event async for event in upstream.call("who", {}, context)][-1].structured_content)


async def test_each_tenant_has_a_connection_and_nobody_the_one_that_lists(scoped, made):
    upstream = scoped()
    assert len(made) == 1 and [tool.name for tool in upstream.tools] == ["who", "wait"]
    assert await who(upstream, context(ANN)) == await who(upstream, context(AMY, "s")) == 1
    assert await who(upstream, context(BOB)) == 2
    assert (upstream.status.scope, upstream.status.state) == ("tenant", ServerState.READY)


async def test_each_session_of_each_caller_has_a_connection(scoped, made):
    upstream = scoped("session")
    numbers = [await who(upstream, context(*each)) for each in ((ANN, "1"), (ANN, "2"), (AMY, "1"), (BOB, "1"), (ANN,))]
    assert numbers == [1, 2, 3, 4, 5], "a name that another caller's session has means nothing"
    assert await who(upstream, context(ANN, "1")) == 1 and await who(upstream, context(ANN)) == 5


async def test_first_calls_at_once_share_one_start(scoped, made):
    upstream = scoped(slow=True)
    calls = [asyncio.create_task(who(upstream, context(ANN))) for _ in range(10)]
    await asyncio.sleep(0)
    assert len(made) == 2
    made[1].become(ServerState.READY)
    made[1].ready.set()
    assert {await call for call in calls} == {1}


async def test_a_start_may_take_the_time_of_the_call_and_no_more(scoped):
    upstream = scoped(slow=True)
    with pytest.raises(DeadlineExceeded):
        await who(upstream, context(deadline=asyncio.get_running_loop().time() + 0.01))


async def test_there_are_bounds_for_a_tenant_and_for_all(scoped):
    upstream = scoped("session", per_tenant=2, per_upstream=3)
    for session in "12":
        await who(upstream, context(ANN, session))
    with pytest.raises(ResourceExhausted, match="at most 2") as error:
        await who(upstream, context(AMY, "3"))
    assert error.value.reason == "TOO_MANY_UPSTREAM_CONNECTIONS"
    await who(upstream, context(BOB, "1"))
    with pytest.raises(ResourceExhausted, match=r"as there may be \(3\)"):
        await who(upstream, context(BOB, "2"))
    await who(upstream, context(ANN, "1"))


async def test_the_end_of_a_session_ends_its_connection_and_no_other(scoped, made):
    upstream = scoped("session")
    for each in ((ANN, "1"), (ANN, "2"), (BOB, "1")):
        await who(upstream, context(*each))
    upstream.end_session(AMY, "1")
    upstream.end_session(ANN, "")
    upstream.end_session(ANN, "1")
    await made[1].stopped.wait()
    assert not made[2].stopped.is_set() and not made[3].stopped.is_set()
    assert await who(upstream, context(ANN, "1")) == 4, "it may begin again"


async def test_a_connection_that_is_not_used_is_closed(scoped, made):
    upstream = scoped(tenant_idle=0.05)
    await who(upstream, context(ANN))
    waiting = asyncio.create_task(anext(upstream.call("wait", {}, context(BOB))))
    await made[1].stopped.wait()
    assert not made[2].stopped.is_set(), "a call runs on it"
    waiting.cancel()
    await made[2].stopped.wait()
    assert upstream.status.connections == 0 and len(made) == 3


async def test_what_is_watched_is_watched_on_the_watchers_connection_which_stays(scoped, made):
    upstream = scoped(tenant_idle=0.05)
    catalog = Catalog(servers=[upstream])
    await catalog.start()
    made[0].hold("u:1")
    with catalog.watches.open(["u:1"], context(ANN)), catalog.watches.open(["u:1"], context(BOB)) as bobs:
        assert [one.watched for one in made] == [frozenset(), {"u:1"}, {"u:1"}]
        made[2].updated("u:1")
        assert (await anext(bobs.changes())).uri == "u:1"
        await who(upstream, context(Principal("cec", "c")))
        await made[3].stopped.wait()
        assert not made[1].stopped.is_set() and not made[2].stopped.is_set()
    await asyncio.gather(made[1].stopped.wait(), made[2].stopped.wait())


async def test_a_tenant_sees_what_its_own_connection_lists_and_nobody_else_does(scoped, made):
    upstream = scoped()
    catalog = Catalog(servers=[upstream])
    await catalog.start()
    seen = {each: catalog.versions(each) for each in (ANN, BOB)}
    for each in (ANN, BOB):
        await who(upstream, context(each))
    assert {each: catalog.versions(each) for each in (ANN, BOB)} == seen, "they list the same"
    made[1].offer("who", "wait", "of_ann")
    assert [tool.name for tool in catalog.list(AMY)] == ["up__who", "up__wait", "up__of_ann"]
    assert [tool.name for tool in catalog.list(BOB)] == ["up__who", "up__wait"]
    assert catalog.versions(ANN).tools == seen[ANN].tools + 1 and catalog.versions(BOB) == seen[BOB]
    events = [event async for event in catalog.call("up__of_ann", b"{}", context(ANN))]
    assert events[-1].structured_content == b"1"
    made[1].offer("of_ann")
    assert [tool.name for tool in catalog.list(ANN)] == ["up__of_ann"]
    made[0].offer("for_all")
    assert [tool.name for tool in catalog.list(ANN)] == ["up__of_ann"]
    assert [tool.name for tool in catalog.list(Principal("cec", "c"))] == ["up__for_all"]
    made[1].offer("for_all")
    assert catalog.view(ANN).servers == (upstream,)
    made[1].offer("of_ann")
    upstream._leave(next(iter(upstream._seats)))
    assert [tool.name for tool in catalog.list(ANN)] == ["up__for_all"]


async def test_who_reconnects_drops_no_connection_of_others(scoped, made):
    upstream = scoped()
    for each in (ANN, BOB):
        await who(upstream, context(each))
    upstream.reconnect("a")
    assert [one.reconnected for one in made] == [0, 1, 0]
    made[0].become(ServerState.UNHEALTHY)
    upstream.reconnect("b")
    upstream.reconnect()
    assert [one.reconnected for one in made] == [2, 2, 2]


async def test_all_that_is_asked_goes_by_the_callers_connection(scoped, made):
    upstream = scoped()
    made[0].failure = AssertionError("nobody asks here")
    with pytest.raises(Exception, match="u:1"):
        await upstream.read("u:1", context(ANN))
    assert (await upstream.fill("p", {}, context(ANN))).description == "up/p {}"
    assert (await upstream.complete(PromptReference("p"), Typed("x", "", {}), context(ANN))).values
    await upstream.stop()
    assert all(one.stopped.is_set() for one in made) and len(made) == 2


async def test_results_are_of_one_owner_and_of_one_connection(scoped, made):
    for scope, same in (("tenant", True), ("session", False)):
        upstream = scoped(scope)
        edition = upstream.edition(context(ANN, "1"))
        assert upstream.edition(context(ANN, "1")) == edition
        assert (upstream.edition(context(AMY, "1")) == upstream.edition(context(ANN, "2")) == edition) is same
        assert upstream.edition(context(BOB, "1")) != edition
        made.clear()


async def test_a_session_of_the_same_name_has_no_results_of_the_one_before(scoped, made):
    upstream = scoped("session")
    before = upstream.edition(context(ANN, "1"))
    assert upstream.edition(context(ANN, "1")) == before
    upstream.end_session(ANN, "1")
    assert upstream.edition(context(ANN, "1")) != before


async def test_results_are_not_kept_over_another_list(scoped, made):
    upstream = scoped()
    before = upstream.edition(context(ANN))
    made[0].now = object()
    assert upstream.edition(context(ANN)) != before
