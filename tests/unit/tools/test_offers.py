"""Names and URIs that mean one thing, and who is asked for what."""

import pytest
from narthex.scopes import ToolScope
from narthex_server.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    ResourceExhausted,
    Unavailable,
    UpstreamRefused,
)
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.completion import PromptReference, TemplateReference, Typed
from narthex_server.tools.offers.watches import MOST_OF_CALLER, ListChanged, ResourceUpdated
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext

TYPED = Typed("x", "", {})


def uris(catalog: Catalog) -> list[str]:
    return [resource.uri for resource in catalog.view(LOCAL).resources.listed]


@pytest.fixture
def one(server):
    return server("one")


@pytest.fixture
def two(server):
    return server("t_wo")


@pytest.fixture
async def catalog(one, two) -> Catalog:
    made = Catalog(servers=[one, two])
    await made.start()
    return made


@pytest.fixture
def read(catalog, context):
    async def text(uri: str, server: str = "") -> str:
        return (await catalog.view(LOCAL).resources.read(uri, server, context)).parts[0].content

    return text


async def test_the_first_of_two_servers_keeps_a_uri(catalog, one, two, read):
    two.hold("a:same", "a:two", "a:two")
    one.hold("a:same")
    assert uris(catalog) == ["a:same", "t-wo+a:same", "a:two"]
    assert await read("a:same") == "one has a:same"
    assert await read("t-wo+a:same") == await read("T-WO+a:same") == await read("a:same", "t_wo") == "t_wo has a:same"
    one.become(ServerState.UNHEALTHY, "it exploded")
    assert uris(catalog) == ["t-wo+a:same", "a:two"], "names stay while the one that holds them is away"
    with pytest.raises(Unavailable, match="it exploded"):
        one.failure = Unavailable("it exploded")
        await read("a:same")


async def test_a_listed_uri_that_looks_qualified_is_what_it_is(catalog, one, two, read):
    one.hold("t-wo+a:x")
    two.hold("a:x")
    assert await read("t-wo+a:x") == "one has t-wo+a:x"


async def test_an_unlisted_uri_is_asked_of_the_likeliest_first(catalog, one, two, read):
    one.unlisted = two.unlisted = {"a:5/x", "a:b", "one+c:d"}
    two.hold(templates=("a:{id}/x",))
    assert await read("a:5/x") == "t_wo has a:5/x", "its template fits"
    assert await read("a:b") == "one has a:b"
    two.unlisted = {"one+c:d"}
    one.unlisted = set()
    assert await read("one+c:d") == "t_wo has one+c:d", "whom it seems to name does not know it"
    two.has_resources = False
    with pytest.raises(NotFound):
        await read("a:b")


@pytest.mark.parametrize("failure", [UpstreamRefused("no"), NotFound("no"), Unavailable("no"), DeadlineExceeded("no")])
async def test_who_cannot_answer_does_not_stop_the_search(catalog, one, two, read, failure):
    one.failure = failure
    two.unlisted = {"a:b"}
    assert await read("a:b") == "t_wo has a:b"
    with pytest.raises(type(failure) if isinstance(failure, Unavailable | DeadlineExceeded) else NotFound):
        await read("a:c")


async def test_the_owner_of_a_uri_speaks_for_it(catalog, one, two, read):
    one.hold("a:b")
    two.unlisted = {"a:b"}
    one.failure = UpstreamRefused("it fell over")
    with pytest.raises(UpstreamRefused, match="fell over"):
        await read("a:b")


async def test_templates_are_told_apart_and_completed_by_their_server(catalog, one, two, context):
    one.hold(templates=("a:{x}",))
    two.hold("a:r", templates=("a:{x}", "a:{y}"))
    assert [one.uri_template for one in catalog.view(LOCAL).resources.templates] == ["a:{x}", "t-wo+a:{x}", "a:{y}"]

    async def suggested(reference) -> str:
        return (await catalog.complete(reference, TYPED, context)).values[0]

    assert await suggested(TemplateReference("a:{x}")) == "one: TemplateReference(uri_template='a:{x}')"
    assert await suggested(TemplateReference("t-wo+a:{x}")) == "t_wo: TemplateReference(uri_template='a:{x}')"
    assert await suggested(TemplateReference("one+a:{z}")) == "one: TemplateReference(uri_template='a:{z}')"
    assert await suggested(TemplateReference("a:r")) == "t_wo: TemplateReference(uri_template='a:r')"
    with pytest.raises(NotFound):
        await suggested(TemplateReference("a:{z}"))


async def test_prompts_are_named_as_tools_are(catalog, one, two, context):
    one.prompt("ask", "ask")
    two.prompt("ask", needs=("who", "how"))
    assert [prompt.name for prompt in catalog.view(LOCAL).prompts.list(LOCAL)] == ["one__ask", "t_wo__ask"]
    filled = await catalog.view(LOCAL).prompts.fill("t_wo.ask", {"who": "x", "how": "y"}, context)
    assert filled.description == "t_wo/ask {'who': 'x', 'how': 'y'}"
    with pytest.raises(InvalidRequest) as caught:
        await catalog.view(LOCAL).prompts.fill("t_wo__ask", {"other": "x"}, context)
    assert [v.field for v in caught.value.violations] == ["arguments.who", "arguments.how"]
    found = await catalog.complete(PromptReference("t_wo__ask"), TYPED, context)
    assert found.values == ("t_wo: PromptReference(name='ask')",)
    two.become(ServerState.UNHEALTHY, "it exploded")
    assert [prompt.name for prompt in catalog.view(LOCAL).prompts.list(LOCAL)] == ["one__ask"]
    with pytest.raises(Unavailable, match="it exploded"):
        await catalog.view(LOCAL).prompts.fill("t_wo__never_seen", {}, context)
    with pytest.raises(NotFound):
        await catalog.view(LOCAL).prompts.fill("one__never_seen", {}, context)


async def test_prompts_outside_a_callers_scope_are_not_there_for_it(catalog, one, two):
    one.prompt("ask", "tell")
    two.prompt("ask")
    one.hold("a:b")
    ann = Principal("ann", "t", ToolScope(("one__a*",)))
    limited = CallContext(ann, "test")
    assert [prompt.name for prompt in catalog.view(LOCAL).prompts.list(ann)] == ["one__ask"]
    assert (await catalog.fill("one.ask", {}, limited)).description == "one/ask {}"
    two.become(ServerState.UNHEALTHY, "a secret of its owner")
    for name in ("one__tell", "one::tell", "t_wo__ask", "t_wo__never_seen"):
        with pytest.raises(NotFound, match="there is no prompt"):
            await catalog.fill(name, {}, limited)
        with pytest.raises(NotFound, match="there is no prompt"):
            await catalog.complete(PromptReference(name), TYPED, limited)
    assert (await catalog.read("a:b", "", limited)).parts[0].content == "one has a:b", "resources are for everybody"


async def test_every_request_is_observed_with_its_outcome(server, context):
    requests = []

    class Observer:
        def on_call(self, report):
            requests.append((report.kind, report.server, report.outcome))

    one = server("one")
    catalog = Catalog(servers=[one], observers=[Observer()])
    await catalog.start()
    one.hold("a:b")
    one.prompt("ask", needs=("who",))
    await catalog.read("a:b", "", context)
    await catalog.fill("one__ask", {"who": "x"}, context)
    await catalog.complete(PromptReference("one__ask"), TYPED, context)
    for failure in (NotFound("x"), UpstreamRefused("x"), DeadlineExceeded("x")):
        one.failure = failure
        with pytest.raises(type(failure)):
            await catalog.read("a:b", "", context)
    with pytest.raises(InvalidRequest):
        await catalog.fill("one__ask", {}, context)
    one.failure = None
    await catalog.read("a:b", "one", context)
    with pytest.raises(NotFound):
        await catalog.read("a:b", "two", context)
    assert requests == [
        ("resource", "one", "ok"),
        ("prompt", "one", "ok"),
        ("completion", "", "ok"),
        ("resource", "one", "not_found"),
        ("resource", "one", "error"),
        ("resource", "one", "deadline"),
        ("prompt", "one", "invalid"),
        ("resource", "one", "ok"),
        ("resource", "", "not_found"),
    ]


async def test_each_list_has_a_version_of_its_own(catalog, one):
    before = catalog.versions(LOCAL)
    one.hold("a:b")
    one.hold("a:b")
    assert catalog.versions(LOCAL).resources == before.resources + 1
    one.hold("a:b", templates=("a:{x}",))
    assert catalog.versions(LOCAL).resources == before.resources + 2
    one.prompt("ask")
    assert catalog.versions(LOCAL).prompts == before.prompts + 1
    one.offer("x")
    assert catalog.versions(LOCAL).tools == before.tools + 1
    assert catalog.versions(LOCAL).catalog == before.catalog + 4


async def test_what_is_watched_is_watched_once_where_it_is(catalog, one, two, context):
    one.hold("a:one")
    two.hold(templates=("a:two/{x}",))
    with (
        catalog.watches.open(["a:one", "t-wo+a:one"], context),
        catalog.watches.open(["a:one", "a:two/5", "a:nobody's"], context),
    ):
        assert one.watched == {"a:one", "a:nobody's"}
        assert two.watched == {"a:one", "a:two/5", "a:nobody's"}
        two.hold("a:nobody's", templates=("a:two/{x}",))
        assert one.watched == {"a:one"}, "now it is known whose that is"
    assert one.watched == two.watched == frozenset()


async def test_one_caller_watches_so_many_in_all_however_it_calls_itself(catalog):
    def by(name: str, *globs: str) -> CallContext:
        return CallContext(Principal(name, "acme", ToolScope(globs)), "test")

    half = [f"a:{number}" for number in range(MOST_OF_CALLER // 2)]
    with catalog.watches.open(half, by("ann")), catalog.watches.open(half, by("ann", "x")):
        with pytest.raises(ResourceExhausted) as caught, catalog.watches.open(["a:one"], by("ann", "y")):
            pass
        assert caught.value.reason == "TOO_MANY_WATCHED"
        with catalog.watches.open(["a:one"], by("bob")), catalog.watches.open([], by("ann")):
            pass
    with catalog.watches.open(["a:one"], by("ann")):
        pass


async def test_a_change_is_told_to_all_who_watch_it_or_what_it_is_part_of(catalog, one, two, context):
    one.hold("a:dir", "a:dir/file", "a:dirt")
    with (
        catalog.watches.open(["a:dir"], context) as first,
        catalog.watches.open(["a:dirt", "one+a:dir"], context) as second,
    ):
        one.updated("a:dir/file")
        one.updated("a:dir/file")
        two.updated("a:dir")
        one.hold("a:dirt")
        ours, theirs = first.changes(), second.changes()
        assert [await anext(ours), await anext(ours)] == [ResourceUpdated("a:dir"), ListChanged()]
        assert [await anext(theirs), await anext(theirs)] == [ResourceUpdated("one+a:dir"), ListChanged()]


async def test_a_server_that_goes_takes_what_it_offered_along(catalog, one, read, context):
    one.hold("a:b")
    with catalog.watches.open(["a:b"], context):
        await catalog.roster.remove("one")
    assert uris(catalog) == []
    with pytest.raises(NotFound):
        await read("a:b")
