"""Resources of real servers of both eras: named, read, watched."""

import asyncio
import json

import pytest
from narthex_server.errors import DeadlineExceeded, NotFound, Unavailable, UpstreamRefused
from narthex_server.principal import LOCAL
from narthex_server.tools.completion import TemplateReference, Typed
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.offers.watches import ListChanged, ResourceUpdated
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, InputRequired

OLDER, NEWER = "2025-11-25", "2026-07-28"


@pytest.fixture(params=[OLDER, NEWER])
def era(request) -> str:
    return request.param


def context(seconds: float | None = None, **mcp) -> CallContext:
    deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
    return CallContext(LOCAL, "test", deadline, McpContext(**mcp))


def uris(running) -> list[str]:
    return [one.uri for one in running.catalog.view(LOCAL).resources.listed]


async def text(running, uri: str, server: str = "", **mcp) -> str:
    found = await running.catalog.view(LOCAL).resources.read(uri, server, context(**mcp))
    return found.parts[0].content


async def touch(running, server: str, uri: str) -> None:
    await running.call(f"{server}__touch", json.dumps({"name": uri}).encode())


async def subscriptions(running, server: str) -> str:
    return json.loads((await running.call(f"{server}__subscriptions"))[-1].content)[0]["text"]


class Reader:
    """Reads a watch one change at a time."""

    def __init__(self, watch) -> None:
        self._changes = watch.changes()

    async def next(self):
        async with asyncio.timeout(20):
            return await anext(self._changes)

    async def until(self, wanted) -> None:
        while await self.next() != wanted:
            pass


async def test_resources_are_listed_with_all_that_they_have_and_told_apart(gateway, script):
    async with gateway({"one": script("library", OLDER, "one"), "t_wo": script("library", NEWER, "two")}) as running:
        assert [one.protocol_version for one in running.catalog.servers()] == [OLDER, NEWER]
        assert uris(running) == ["demo://same", "demo://one/one", "t-wo+demo://same", "demo://two/one"]
        resource = running.catalog.view(LOCAL).resources.listed[0]
        assert (resource.name, resource.title, resource.description) == ("demo://same", "One", "one")
        assert (resource.mime_type, resource.size, resource.server) == ("text/plain", 3, "one")
        assert json.loads(resource.annotations) == {"audience": ["user"], "priority": 0.5}
        assert json.loads(resource.icons)[0]["sizes"] == ["48x48"]
        assert json.loads(resource.meta) == {"shelf": 1}
        templates = running.catalog.view(LOCAL).resources.templates
        assert [one.uri_template for one in templates] == ["demo://one/items/{id}", "demo://two/items/{id}"]
        tool = running.catalog.get("one__touch", LOCAL)
        assert json.loads(tool.icons)[0]["mimeType"] == "image/png" and json.loads(tool.meta) == {"t": 1}
        assert json.loads((await running.call("one__subscriptions"))[-1].meta) == {"m": 1}


async def test_each_uri_is_read_where_it_is(gateway, script):
    async with gateway({"one": script("library", OLDER, "one"), "t_wo": script("library", NEWER, "two")}) as running:
        assert await text(running, "demo://same") == "one has demo://same"
        assert await text(running, "t-wo+demo://same") == "two has demo://same"
        assert await text(running, "demo://same", "t_wo") == "two has demo://same"
        assert await text(running, "one+demo://one/one") == "one has demo://one/one"
        assert await text(running, "demo://two/items/5") == "two has demo://two/items/5"
        assert await text(running, "secret://two/x") == "two has secret://two/x", "nobody lists it, and one knows it"
        found = await running.catalog.view(LOCAL).resources.read("t-wo+demo://same", "", context())
        assert found.parts[0].uri == "t-wo+demo://same", "the contents have the URI that was asked for"
        assert json.loads(found.parts[0].meta) == {"page": 7} and json.loads(found.meta) == {"read": True}
        for server, ttl_ms in (("one", 0), ("two", 500)):
            found = await running.catalog.view(LOCAL).resources.read(f"demo://{server}/items/bytes", "", context())
            assert (found.parts[0].content, found.ttl_ms) == (b"\0\1\2", ttl_ms)


async def test_what_cannot_be_read_says_why(gateway, script):
    async with gateway({"one": script("library", OLDER, "one"), "two": script("library", NEWER, "two")}) as running:
        for uri in ("demo://nothing", "nonsense", "two+demo://nothing", "demo://three/items/5"):
            with pytest.raises(NotFound) as caught:
                await text(running, uri)
            assert (caught.value.reason, caught.value.metadata["uri"]) == ("RESOURCE_NOT_FOUND", uri)
        with pytest.raises(NotFound, match="no upstream"):
            await text(running, "demo://same", "three")
        with pytest.raises(UpstreamRefused, match="fell over"):
            await text(running, "demo://one/items/fails")
        with pytest.raises(DeadlineExceeded, match="one"):
            await running.catalog.view(LOCAL).resources.read("demo://one/items/hangs", "", context(0.2))
        assert await text(running, "demo://same") == "one has demo://same"


async def test_an_upstream_may_ask_before_it_answers(gateway, script):
    async with gateway({"one": script("library", NEWER, "one")}) as running:
        asked = await running.catalog.view(LOCAL).resources.read(
            "demo://one/items/asks", "", context(capabilities={"elicitation": {"form": {}}})
        )
        assert isinstance(asked, InputRequired) and asked.request_state == "half way"
        assert (asked.requests[0].id, asked.requests[0].method) == ("who", "elicitation/create")
        assert json.loads(asked.requests[0].params)["message"] == "Who?"
        answer = {"who": {"action": "accept", "content": {"name": "Ada"}}}
        again = {"input_responses": answer, "request_state": "half way", "meta": {"traceparent": "00-1"}}
        assert await text(running, "demo://one/items/asks", **again) == "Ada, half way, 00-1"


async def test_the_lists_versions_grow_each_by_itself(gateway, script, era):
    async with gateway({"one": script("library", era, "one")}) as running:
        before = running.catalog.versions(LOCAL)
        await running.call("one__add", b'{"name":"demo://new"}')
        await running.until(lambda: "demo://new" in uris(running))
        after = running.catalog.versions(LOCAL)
        assert after.resources > before.resources and after.catalog > before.catalog
        assert (after.tools, after.prompts) == (before.tools, before.prompts)
        await running.call("one__add_prompt", b'{"name":"new"}')
        await running.until(lambda: len(running.catalog.view(LOCAL).prompts.list(LOCAL)) == 2)
        last = running.catalog.versions(LOCAL)
        assert last.prompts > after.prompts and (last.tools, last.resources) == (after.tools, after.resources)


async def test_updates_reach_every_watcher_and_the_last_one_ends_the_subscription(gateway, script):
    async with gateway({"one": script("library", OLDER, "one"), "two": script("library", NEWER, "two")}) as running:
        watches = running.catalog.watches
        with watches.open(["demo://same", "two+demo://same"], context()) as first:
            await watches.ready(first)
            with watches.open(["demo://same", "demo://one/one"], context()) as second:
                await watches.ready(second)
                assert await subscriptions(running, "one") == "demo://one/one,demo://same"
                assert await subscriptions(running, "two") == "demo://same"
                here, there = Reader(first), Reader(second)
                await touch(running, "one", "demo://same")
                assert await here.next() == await there.next() == ResourceUpdated("demo://same")
                await touch(running, "two", "demo://same")
                assert await here.next() == ResourceUpdated("two+demo://same")
                await touch(running, "one", "demo://one/one")
                assert await there.next() == ResourceUpdated("demo://one/one")
            await watches.ready(first)
            await running.until_subscribed("one", "demo://same")
            await touch(running, "one", "demo://same")
            assert await here.next() == ResourceUpdated("demo://same")
        await running.until_subscribed("one", "")
        await running.until_subscribed("two", "")


async def test_watchers_hear_of_the_list(gateway, script, era):
    async with gateway({"one": script("library", era, "one")}) as running:
        with running.catalog.watches.open([], context()) as watch:
            await running.call("one__add", b'{"name":"demo://new"}')
            assert await Reader(watch).next() == ListChanged()


async def test_a_watched_upstream_that_dies_is_subscribed_again_and_its_watchers_look_again(gateway, script, era):
    async with gateway({"one": script("library", era, "one")}) as running:
        with running.catalog.watches.open(["demo://same"], context()) as watch:
            await running.catalog.watches.ready(watch)
            reader = Reader(watch)
            with pytest.raises(Unavailable):
                await running.call("one__die")
            with pytest.raises(Unavailable, match="exited with status 7"):
                await text(running, "demo://same")
            assert uris(running) == []
            await running.until_ready("one")
            await reader.until(ResourceUpdated("demo://same"))
            await running.until_subscribed("one", "demo://same")
            await touch(running, "one", "demo://same")
            assert await reader.next() == ResourceUpdated("demo://same")


async def test_a_stream_of_changes_that_ends_is_opened_again_and_nothing_is_missed(gateway, script):
    async with gateway({"one": script("library", NEWER, "one")}) as running:
        with running.catalog.watches.open(["demo://same"], context()) as watch:
            await running.catalog.watches.ready(watch)
            await running.call("one__hang_up")
            await running.until_subscribed("one", "")
            await running.call("one__add", b'{"name":"demo://unheard"}')
            reader = Reader(watch)
            unheard = {ResourceUpdated("demo://same"), ListChanged()}
            assert {await reader.next(), await reader.next()} == unheard
            assert "demo://unheard" in uris(running)
            await touch(running, "one", "demo://same")
            assert await reader.next() == ResourceUpdated("demo://same")


async def test_a_subscription_that_is_refused_costs_no_other(gateway, script, era):
    async with gateway({"one": script("library", era, "one")}) as running:
        watches = running.catalog.watches
        with watches.open(["demo://same"], context()) as watch:
            await watches.ready(watch)
            with watches.open(["demo://forbidden"], context()) as other:
                await watches.ready(other)
                await touch(running, "one", "demo://same")
                assert await Reader(watch).next() == ResourceUpdated("demo://same")
                await running.call("one__add", b'{"name":"demo://new"}')
                assert await Reader(other).next() == ListChanged()


async def test_changes_come_over_http_too(gateway, http_server):
    async with http_server("http", "library", NEWER, "one") as url, gateway({"one": {"url": url}}) as running:
        assert running.status("one").protocol_version == NEWER
        with running.catalog.watches.open(["demo://same"], context()) as watch:
            await running.catalog.watches.ready(watch)
            reader = Reader(watch)
            await touch(running, "one", "demo://same")
            assert await reader.next() == ResourceUpdated("demo://same")
            await running.call("one__add", b'{"name":"demo://new"}')
            assert await reader.next() == ListChanged()
            assert await text(running, "demo://new") == "one has demo://new"
        await running.until_subscribed("one", "")


async def test_suggestions_come_from_the_templates_own_server(gateway, script):
    async with gateway({"one": script("library", OLDER, "one"), "two": script("library", NEWER, "two")}) as running:

        async def suggested(template: str, value: str = "", **known: str):
            reference = TemplateReference(template)
            return await running.catalog.complete(reference, Typed("id", value, known), context())

        assert (await suggested("demo://two/items/{id}", color="red")).values == ("two", "color")
        assert (await suggested("two+demo://two/items/{id}")).values == ("two",)
        assert (await suggested("demo://one/items/{id}")).total == 1
        with pytest.raises(NotFound):
            await suggested("demo://three/{id}")


async def test_broken_lists_leave_the_tools(gateway, script):
    async with gateway({"bad": script("hostile", "broken"), "one": script("library", OLDER, "one")}) as running:
        assert "bad__works" in running.names() and running.status("bad").state is ServerState.READY
        assert uris(running) == ["demo://same", "demo://one/one"]
        assert [one.name for one in running.catalog.view(LOCAL).prompts.list(LOCAL)] == ["one__greet"]
        assert await text(running, "demo://same") == "one has demo://same"


async def test_a_list_that_does_not_come_leaves_the_others(gateway, script):
    async with gateway({"bad": script("hostile", "silent")}, start_timeout=6.0) as running:
        assert running.names() == ["bad__works"] and running.status("bad").state is ServerState.READY
        assert "x:odd" in uris(running) and not running.catalog.view(LOCAL).prompts.list(LOCAL)


async def test_answers_of_the_wrong_kind_are_typed_errors(gateway, script):
    async with gateway({"bad": script("hostile", "listed")}, breaker=None) as running:
        listed = {one.uri: one.size for one in running.catalog.view(LOCAL).resources.listed}
        assert [listed[f"x:size{index}"] for index in range(5)] == [None, None, None, 5, None]
        for uri in ("x:number", "x:neither", "x:base64"):
            with pytest.raises(Unavailable) as caught:
                await text(running, uri)
            assert caught.value.reason == "UPSTREAM_INVALID_RESULT"
        found = await running.catalog.view(LOCAL).resources.read("x:odd", "", context())
        assert (found.parts[0].content, found.ttl_ms, json.loads(found.meta)) == ("fine", 0, {"a": None})
        with pytest.raises(Unavailable):
            await running.catalog.view(LOCAL).prompts.fill("bad__p", {}, context())
        with pytest.raises(Unavailable):
            await running.catalog.complete(TemplateReference("x:odd"), Typed("a", "", {}), context())
        with running.catalog.watches.open(["x:odd"], context()) as watch:
            async with asyncio.timeout(5):
                await running.catalog.watches.ready(watch)
        assert (await running.call("bad__works"))[-1].content == b"[]"
