import asyncio
import gc

import pytest
from narthex_server.errors import InvalidToolArguments, NotFound, Unavailable
from narthex_server.principal import Principal
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.completion import PromptReference, TemplateReference, Typed
from narthex_server.tools.offers import views
from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.offers.watches import ListChanged, ResourceUpdated
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, Tool

ANN, BOB, CEC = Principal("ann", "a"), Principal("bob", "b"), Principal("cec", "c")


@pytest.fixture
def all_see(server):
    return server("all", "open")


@pytest.fixture
def of_a(server):
    return server("vault", "secret", "find", prefix="x", tenants=("a",))


@pytest.fixture
def of_b(server):
    return server("other", "find", prefix="x", tenants=("b*",))


@pytest.fixture
async def catalog(echo, all_see, of_a, of_b):
    catalog = Catalog(natives=[echo("chat")], servers=[all_see, of_a, of_b])
    await catalog.start()
    return catalog


def names(catalog, who):
    return [tool.name for tool in catalog.list(who)]


async def answer(catalog, name, who):
    return [event async for event in catalog.call(name, b"{}", CallContext(who, "test"))][-1].structured_content


async def test_a_tenant_has_what_it_sees_and_no_more(catalog):
    assert names(catalog, ANN) == ["chat", "all__open", "x_secret", "x_find"]
    assert names(catalog, BOB) == ["chat", "all__open", "x_find"]
    assert names(catalog, CEC) == ["chat", "all__open"]
    assert [one.name for one in catalog.servers(ANN)] == ["all", "vault"]
    assert [one.name for one in catalog.servers(CEC)] == ["all"]
    assert [one.name for one in catalog.servers()] == ["all", "vault", "other"]


async def test_one_name_is_each_tenants_own_tool(catalog, of_a, of_b):
    assert await answer(catalog, "x_find", ANN) == b"vault/find"
    assert await answer(catalog, "x_find", BOB) == b"other/find"
    of_a.tools = (Tool("find", "", "", b'{"type":"object","required":["q"]}'),)
    of_a.become(ServerState.READY)
    with pytest.raises(InvalidToolArguments):
        await answer(catalog, "x_find", ANN)
    assert await answer(catalog, "x_find", BOB) == b"other/find", "another's schema judges nothing"


@pytest.mark.parametrize("name", ["x_secret", "vault::secret", "vault.secret", "vault__secret", "vault__nothing"])
@pytest.mark.parametrize("state", ServerState)
async def test_what_a_tenant_does_not_see_is_not_there_by_any_name_and_in_any_state(catalog, of_a, name, state):
    of_a.become(state, "its secret reason")
    with pytest.raises(NotFound) as there:
        await answer(catalog, name, BOB)
    with pytest.raises(NotFound) as nowhere:
        await answer(catalog, "nowhere::secret", BOB)
    assert there.value.message.replace(name, "") == nowhere.value.message.replace("nowhere::secret", "")
    if state is not ServerState.READY and name == "vault__nothing":
        with pytest.raises(Unavailable, match="its secret reason"):
            await answer(catalog, name, ANN)


async def test_a_name_with_a_hash_belongs_to_who_sees_the_collision(server):
    first, second = server("one", "t", prefix="p"), server("two", "t", prefix="p", tenants=("a",))
    catalog = Catalog(servers=[first, second])
    await catalog.start()
    plain, hashed = names(catalog, ANN)
    assert plain == "p_t" and hashed.startswith("p_t_")
    assert names(catalog, BOB) == ["p_t"]
    with pytest.raises(NotFound):
        await answer(catalog, hashed, BOB)


async def test_resources_prompts_and_suggestions_are_found_where_the_tenant_sees_them(catalog, of_a, of_b):
    of_a.hold("s:1", templates=("s:{x}",))
    of_b.hold("s:1", "s:2")
    of_a.prompt("ask")
    context = CallContext(ANN, "test"), CallContext(BOB, "test"), CallContext(CEC, "test")
    assert (await catalog.read("s:1", "", context[0])).parts[0].content == "vault has s:1"
    assert (await catalog.read("s:1", "", context[1])).parts[0].content == "other has s:1"
    for uri, named in (("s:1", ""), ("vault+s:1", ""), ("other+s:1", ""), ("s:1", "vault"), ("s:9", "")):
        with pytest.raises(NotFound) as error:
            await catalog.read(uri, named, context[2])
        assert "s:1" not in error.value.message or "s:1" in uri
    assert [one.uri for one in catalog.view(BOB).resources.listed] == ["s:1", "s:2"]
    assert catalog.view(BOB).resources.templates == ()
    assert [one.name for one in catalog.view(ANN).prompts.list(ANN)] == ["x_ask"]
    assert catalog.view(BOB).prompts.list(BOB) == ()
    for reference in (PromptReference("x_ask"), PromptReference("vault::ask"), TemplateReference("s:{x}")):
        assert (await catalog.complete(reference, Typed("x", "", {}), context[0])).values
        with pytest.raises(NotFound):
            await catalog.complete(reference, Typed("x", "", {}), context[1])


async def test_names_of_others_are_in_no_error_of_the_operator_either(catalog):
    with pytest.raises(NotFound) as error:
        await catalog.reconnect("vault", BOB)
    assert error.value.message == "there is no upstream named 'vault'; there are: all, other"
    with pytest.raises(NotFound):
        catalog.set_log_level(BOB, "debug", "vault")
    catalog.set_log_level(ANN, "debug", "vault")


async def test_versions_tell_a_tenant_of_its_own_changes_alone(catalog, of_a, all_see):
    before = {who: catalog.versions(who) for who in (ANN, BOB, CEC)}
    waiting = asyncio.create_task(catalog.wait_changed(BOB, before[BOB].catalog))
    of_a.offer("more")
    of_a.hold("a:1")
    of_a.prompt("ask")
    await asyncio.sleep(0)
    now = catalog.versions(ANN)
    assert now.tools == before[ANN].tools + 1 and now.resources == before[ANN].resources + 1
    assert now.prompts == before[ANN].prompts + 1
    assert catalog.versions(BOB) == before[BOB] and catalog.versions(CEC) == before[CEC]
    assert not waiting.done()
    all_see.offer("other")
    assert await waiting == catalog.versions(BOB).catalog == before[BOB].catalog + 1


async def test_a_server_that_comes_or_goes_is_told_to_who_sees_it(catalog, server):
    before = {who: catalog.versions(who) for who in (ANN, BOB, CEC)}
    catalog.roster.insert(server("new", "tool", tenants=("b",)))
    assert catalog.versions(BOB).tools == before[BOB].tools + 1
    assert catalog.versions(ANN) == before[ANN] and catalog.versions(CEC) == before[CEC]
    seen = catalog.versions(BOB)
    await catalog.roster.remove("new")
    assert catalog.versions(BOB).tools == seen.tools + 1
    assert catalog.versions(ANN) == before[ANN] and catalog.versions(CEC) == before[CEC]


async def test_tenants_who_see_different_things_at_last_never_have_an_old_number(server):
    catalog = Catalog(servers=[server("all", "open")])
    await catalog.start()
    seen = {who: catalog.versions(who) for who in (ANN, BOB)}
    assert catalog.view(ANN) is catalog.view(BOB), "who sees the same has the same tables"
    own = server("own", "tool", tenants=("a",))
    catalog.roster.insert(own)
    own.offer("x")
    own.offer("y")
    assert catalog.view(ANN) is not catalog.view(BOB) and catalog.versions(BOB) == seen[BOB]
    last = catalog.versions(ANN)
    await catalog.roster.remove("own")
    assert catalog.view(ANN) is catalog.view(BOB)
    assert catalog.versions(ANN).tools > last.tools


async def test_who_watches_is_told_of_its_own_list_and_on_its_own_server(catalog, of_a, of_b):
    of_a.hold("s:1")
    of_b.hold("s:1")
    with (
        catalog.watches.open(["s:1"], CallContext(ANN, "1")) as ann,
        catalog.watches.open(["s:1", "vault+s:1"], CallContext(BOB, "2")) as bob,
    ):
        assert of_a.watched == {"s:1"} and of_b.watched == {"s:1", "vault+s:1"}
        of_a.updated("s:1")
        of_a.hold("s:1", "s:2")
        changes = ann.changes()
        assert [await anext(changes), await anext(changes)] == [ResourceUpdated("s:1"), ListChanged()]
        of_b.updated("s:1")
        of_b.hold("s:3")
        theirs = bob.changes()
        assert [await anext(theirs), await anext(theirs)] == [ResourceUpdated("s:1"), ListChanged()]


async def test_few_groups_make_few_tables_whatever_the_number_of_tenants(catalog, monkeypatch):
    assert len({id(catalog.view(Principal("x", f"tenant-{number}"))) for number in range(100)}) == 1
    monkeypatch.setattr(views, "MAX_TENANTS", 8)
    found = views.Views(views.Shared(Inspection()))
    found.refresh((), catalog.view(ANN).servers, None)
    for number in range(100):
        found.of(f"tenant-{number}")
    gc.collect()
    assert len(found._tenants) == 8 and len(found._views) == 1
