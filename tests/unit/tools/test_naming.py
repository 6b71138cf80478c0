"""How the tools of several servers share one space of names."""

import logging

import pytest
from narthex_server.errors import NotFound, Unavailable
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.names import Renamed, RenameReason, distinct_name
from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import Tool

FLAT = Presentation("")


def names(catalog: Catalog) -> list[str]:
    return [tool.name for tool in catalog.list(LOCAL)]


async def answer(catalog: Catalog, name: str, context) -> bytes:
    return [event async for event in catalog.call(name, b"{}", context)][-1].structured_content


async def started(*servers, natives=(), **options) -> Catalog:
    catalog = Catalog(natives, servers, **options)
    await catalog.start()
    return catalog


async def test_flat_names_go_to_the_first_server_and_what_loses_is_reported(server, context, caplog):
    catalog = await started(server("a", "read", presentation=FLAT), server("b", "read", "write", presentation=FLAT))
    first, second, third = names(catalog)
    assert (first, second, third) == ("read", distinct_name("read", "b", "read"), "write")
    assert await answer(catalog, second, context) == b"b/read"
    assert catalog.renamed == (Renamed("b", "read", second, RenameReason.TAKEN, "read"),)
    assert caplog.text.count("of upstream b is served as") == 1


async def test_a_native_tool_wins_over_a_flat_name(server, echo, context):
    catalog = await started(server("a", "chat", presentation=FLAT), natives=[echo("chat")])
    assert await answer(catalog, "chat", context) == b"{}"
    assert [one.other for one in catalog.renamed] == ["chat"]


async def test_a_server_cannot_take_names_of_another_ones_space(server, context):
    catalog = await started(server("evil", "files__read", presentation=FLAT), server("files", "read"))
    other, plain = names(catalog)
    assert plain == "files__read" and await answer(catalog, "files__read", context) == b"files/read"
    assert catalog.renamed == (Renamed("evil", "files__read", other, RenameReason.RESERVED, "files__"),)


async def test_a_server_cannot_take_the_name_that_a_collision_gives_another(server, context):
    made = distinct_name("read", "b", "read")
    catalog = await started(server("evil", "read", made, presentation=FLAT), server("b", "read", presentation=FLAT))
    assert len(set(names(catalog))) == 3
    assert await answer(catalog, made, context) == b"evil/" + made.encode()
    assert await answer(catalog, names(catalog)[2], context) == b"b/read"


async def test_names_of_the_configuration_and_patterns_choose_what_is_offered(server, context):
    presentation = Presentation(
        rename={"read": "look"}, describe={"read": "Look at a file"}, include=("r*", "w*"), exclude=("rm*",)
    )
    one = server("files", "read", "rmdir", "write", "stat", presentation=presentation)
    catalog = await started(one)
    assert [(tool.name, tool.description) for tool in catalog.list(LOCAL)] == [
        ("look", "Look at a file"),
        ("files__write", ""),
    ]
    for name in ("look", "files::read", "files__read"):
        assert await answer(catalog, name, context) == b"files/read"
    for name in ("files__rmdir", "files::stat"):
        with pytest.raises(NotFound):
            await answer(catalog, name, context)
    one.offer()
    one.become(ServerState.UNHEALTHY, "it exploded")
    with pytest.raises(Unavailable):
        await answer(catalog, "look", context)
    with pytest.raises(NotFound):
        await answer(catalog, "files__rmdir", context)


async def test_long_and_odd_names_are_reported(server):
    catalog = await started(server("a", "x" * 80, "read/file"))
    assert [one.reason for one in catalog.renamed] == [RenameReason.LENGTH, RenameReason.CHARACTERS]


async def test_names_that_look_like_another_servers_are_reported(server):
    odd = "r\u0435ad"  # a Cyrillic letter
    catalog = await started(server("a", "read", presentation=FLAT), server("b", odd, presentation=FLAT))
    assert catalog.renamed == (Renamed("b", odd, "r_ad", RenameReason.RESEMBLES, "read"),)


async def test_names_that_look_like_another_and_are_allowed_are_reported(server):
    catalog = await started(server("a", "list_file", presentation=FLAT), server("b", "Iist_fi1e", presentation=FLAT))
    assert catalog.renamed == (Renamed("b", "Iist_fi1e", "Iist_fi1e", RenameReason.RESEMBLES, "list_file"),)


async def test_reports_are_made_once_and_logs_are_bounded(server, caplog):
    one = server("a", "x")
    catalog = await started(one)
    for _ in range(3):
        one.offer("y" * 80)
        one.offer("x")
    assert caplog.text.count("is served as") == 1
    caplog.clear()
    for index in range(1200):
        one.offer(f"{index:080}")
    assert len(caplog.records) < 1000
    assert catalog.renamed[0].own_name == f"{1199:080}"


class TestHiddenCharacters:
    @pytest.fixture
    def hostile(self, server):
        one = server("a")
        one.tools = (
            Tool("good", "", "fine", b"{}"),
            Tool(
                "bad",
                "ti\u200btle",
                "adds\U000e0041 numbers",
                '{"properties":{"n":{"description":"x\u202e"}}}'.encode(),
            ),
        )
        return one

    async def test_are_removed_and_told_once(self, hostile, caplog):
        inspection = Inspection("strip")
        catalog = await started(hostile, inspection=inspection)
        _, bad = catalog.list(LOCAL)
        assert (bad.title, bad.description) == ("title", "adds numbers")
        assert bad.input_schema == b'{"properties":{"n":{"description":"x"}}}'
        hostile.tools = tuple(hostile.tools)[::-1]
        hostile.become(ServerState.READY)
        assert inspection.suspects == {("a", "tool"): 1}
        assert [record.levelno for record in caplog.records] == [logging.WARNING]

    async def test_are_a_reason_to_hide_a_tool(self, hostile, context):
        catalog = await started(hostile, inspection=Inspection("refuse"))
        assert names(catalog) == ["a__good"]
        with pytest.raises(NotFound):
            await answer(catalog, "a__bad", context)

    async def test_may_be_let_through_for_a_server(self, hostile):
        hostile.presentation = Presentation(scan="off")
        catalog = await started(hostile, inspection=Inspection("refuse"))
        assert catalog.list(LOCAL)[1].title == "ti\u200btle"

    async def test_are_looked_for_again_only_in_another_list(self, server):
        inspection = Inspection()
        one = server("a", "x")
        assert inspection.tools(one, one.tools) is inspection.tools(one, one.tools)

    async def test_in_prompts_and_resources_are_removed_too(self, server):
        one = server("a")
        catalog = await started(one)
        one.prompt("p\u200b", needs=("wh\u200bo",))
        one.hold("x:\u202ea", "x:b")
        one.resources = (*one.resources, *(type(one.resources[0])("x:c", "na\x1b[1mme", "t\x07"),))
        one.become(ServerState.READY)
        (prompt,) = catalog.sight(LOCAL).prompts
        assert prompt.name == "a__p_" and prompt.arguments[0].name == "who"
        assert [(item.uri, item.name, item.title) for item in catalog.sight(LOCAL).resources] == [
            ("x:b", "x:b", ""),
            ("x:c", "name", "t"),
        ]
