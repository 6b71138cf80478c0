import asyncio

import pytest
from narthex.scopes import ToolScope
from narthex_server.errors import AlreadyExists, InvalidToolArguments, NotFound, Unavailable
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext


def names(catalog: Catalog) -> list[str]:
    return [tool.name for tool in catalog.list(LOCAL)]


async def answer(catalog: Catalog, name: str, context, arguments: bytes = b"{}") -> bytes:
    return [event async for event in catalog.call(name, arguments, context)][-1].structured_content


async def test_natives_come_first_then_servers_in_their_order(echo, server):
    catalog = Catalog([echo("zeta"), echo("alpha")], [server("b", "two", "one"), server("a", "x")])
    await catalog.start()
    assert names(catalog) == ["zeta", "alpha", "b__two", "b__one", "a__x"]
    assert [tool.server for tool in catalog.list(LOCAL)] == ["", "", "b", "b", "a"]


async def test_a_native_tool_wins_and_the_other_keeps_a_name(echo, server, context):
    catalog = Catalog([echo("a__x")], [server("a", "x")])
    await catalog.start()
    plain, other = names(catalog)
    assert plain == "a__x" and other.startswith("a__x_")
    assert await answer(catalog, "a__x", context, b'{"n":1}') == b'{"n":1}'
    assert await answer(catalog, other, context) == b"a/x"
    assert await answer(catalog, "a::x", context) == b"a/x"


async def test_names_that_collide_are_told_apart_by_the_order_of_the_configuration(server, context):
    catalog = Catalog(servers=[server("a", "b__c"), server("a__b", "c")])
    await catalog.start()
    first, second = names(catalog)
    assert first == "a__b__c" and second.startswith("a__b__c_")
    assert await answer(catalog, first, context) == b"a/b__c"
    assert await answer(catalog, second, context) == b"a__b/c"


async def test_aliases_and_prefixes_call_the_same_tool(server, context):
    catalog = Catalog(servers=[server("files", "read", prefix="fs")])
    await catalog.start()
    assert names(catalog) == ["fs_read"]
    for name in ("fs_read", "files::read", "files.read", "files__read"):
        assert await answer(catalog, name, context) == b"files/read"


async def test_a_server_that_is_down_is_left_out_and_says_why(server, context):
    down = server("a", "x")
    catalog = Catalog(servers=[down, server("b", "y")])
    await catalog.start()
    down.become(ServerState.UNHEALTHY, "it exploded")
    assert names(catalog) == ["b__y"]
    down.offer()
    with pytest.raises(Unavailable, match="it exploded"):
        await answer(catalog, "a__x", context)
    with pytest.raises(NotFound):
        await answer(catalog, "b__x", context)


async def test_the_version_grows_only_when_the_list_is_another(server):
    one = server("a", "x")
    catalog = Catalog(servers=[one])
    await catalog.start()
    version = catalog.versions(LOCAL).catalog
    one.offer("x")
    assert catalog.versions(LOCAL).catalog == version
    waiting = asyncio.create_task(catalog.wait_changed(LOCAL, version))
    one.offer("x", "y")
    async with asyncio.timeout(5):
        assert await waiting == catalog.versions(LOCAL).catalog > version


async def test_servers_come_and_go_while_running(server, context):
    catalog = Catalog(servers=[server("a", "x")])
    await catalog.start()
    catalog.roster.insert(server("b", "y"))
    with pytest.raises(AlreadyExists, match="already"):
        catalog.roster.insert(server("b"))
    assert names(catalog) == ["a__x", "b__y"]
    await catalog.roster.remove("a")
    assert names(catalog) == ["b__y"] and [s.name for s in catalog.servers()] == ["b"]
    with pytest.raises(NotFound, match="there are: b"):
        await catalog.reconnect("a")


async def test_natives_come_and_go_while_running(echo):
    catalog = Catalog()
    catalog.add_native(echo("one"))
    assert names(catalog) == ["one"]
    catalog.remove_native("one")
    assert names(catalog) == []


async def test_every_call_is_observed_with_its_outcome(echo, server, context):
    calls = []

    class Observer:
        def on_call(self, report):
            calls.append((report.asked, report.name, report.server, report.outcome, report.reason))

    down = server("a", "x")
    catalog = Catalog([echo("one", b'{"required":["n"]}')], [down, server("b", "wait")], [Observer()])
    await catalog.start()
    await answer(catalog, "one", context, b'{"n":1}')
    with pytest.raises(InvalidToolArguments):
        await answer(catalog, "one", context)
    with pytest.raises(NotFound):
        await answer(catalog, "nothing", context)
    events = catalog.call("b__wait", b"{}", context)
    await anext(events)
    await events.aclose()
    down.become(ServerState.UNHEALTHY)
    down.offer()
    with pytest.raises(Unavailable):
        await answer(catalog, "a__x", context)
    assert calls == [
        ("one", "one", "", "ok", ""),
        ("one", "one", "", "invalid", "INVALID_TOOL_ARGUMENTS"),
        ("nothing", "", "", "not_found", "TOOL_NOT_FOUND"),
        ("b__wait", "b__wait", "b", "ok", ""),
        ("a__x", "", "", "unavailable", "UPSTREAM_UNAVAILABLE"),
    ]


async def test_closing_the_events_closes_the_call(server, context):
    one = server("a", "wait")
    catalog = Catalog(servers=[one])
    await catalog.start()
    events = catalog.call("a__wait", b"{}", context)
    await anext(events)
    await events.aclose()
    assert one.cancelled.is_set()


async def test_tools_outside_a_callers_scope_are_not_there_for_it(echo, server, context):
    down = server("down", "x")
    catalog = Catalog([echo("chat")], [server("time", "now", "zone"), server("files", "read", prefix="fs"), down])
    await catalog.start()
    down.become(ServerState.UNHEALTHY, "a secret of its owner")
    ann = Principal("ann", "t", ToolScope(("time__n*", "fs_*")))
    limited = CallContext(ann, "test")
    assert [tool.name for tool in catalog.list(ann)] == ["time__now", "fs_read"]
    assert len(catalog.list(LOCAL)) == 4
    for name in ("time__now", "time::now", "time.now", "fs_read", "files::read", "files__read"):
        await answer(catalog, name, limited)
        assert catalog.get(name, ann).name in ("time__now", "fs_read")
    for name in ("time__zone", "time::zone", "time.zone", "chat", "down__x", "down::x"):
        with pytest.raises(NotFound) as forbidden:
            await answer(catalog, name, limited)
        with pytest.raises(NotFound):
            catalog.get(name, ann)
        with pytest.raises(NotFound) as absent:
            await answer(catalog, "no_such", limited)
        assert str(forbidden.value).replace(name, "no_such") == str(absent.value)


async def test_of_a_server_that_is_down_only_those_hear_who_may_call_it(server):
    down = server("files", "read", prefix="fs")
    catalog = Catalog(servers=[down])
    await catalog.start()
    down.become(ServerState.UNHEALTHY, "it exploded")
    down.offer()
    for name in ("fs_read", "files::read"):
        with pytest.raises(Unavailable, match="it exploded"):
            await answer(catalog, name, CallContext(Principal("ann", "t", ToolScope(("fs_*",))), "test"))
        with pytest.raises(NotFound):
            await answer(catalog, name, CallContext(Principal("bob", "t", ToolScope(("files*",))), "test"))


async def test_a_tool_that_another_has_taken_the_name_of_meanwhile_is_not_called(server, context):
    """The steps have judged the one that was there."""

    class Slow:
        async def around(self, call, run):
            assert call.tool.server == "a"
            a.offer()
            async for event in run(call):
                yield event

    a, b = server("a", "read", prefix=""), server("b", "read", prefix="")
    catalog = Catalog(servers=[a, b], steps=[Slow()])
    await catalog.start()
    with pytest.raises(NotFound, match="read"):
        await answer(catalog, "read", context)
    assert catalog.get("read", LOCAL).server == "b" and not b.cancelled.is_set()
