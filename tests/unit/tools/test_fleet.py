import asyncio

import pytest
from narthex_server.errors import AlreadyExists, NotFound
from narthex_server.lot.limits import Limits
from narthex_server.lot.lot import Lot
from narthex_server.principal import LOCAL
from narthex_server.tools.admission.pools import UpstreamPools
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.fleet import Fleet
from narthex_server.tools.server import ServerState
from narthex_server.tools.upstream.source import Process, ServerSource


def source(name: str, command: str = "run") -> ServerSource:
    return ServerSource(name, Process(command))


class Yard:
    """A fleet of in-process servers, and every server that it has built."""

    def __init__(self, server) -> None:
        self._server = server
        self.built: list = []
        sources = [source("a"), source("b")]
        self.catalog = Catalog(servers=[self.make(one) for one in sources])
        self.lot = Lot()
        pools = UpstreamPools(self.lot, Limits(), 1000, lambda source: source.concurrency)
        self.fleet = Fleet(self.catalog.roster, sources, self.build, 7.0, pools)

    def make(self, one: ServerSource):
        made = self._server(one.name, "tool")
        self.built.append(made)
        return made

    async def build(self, one: ServerSource):
        return self.make(one)

    @property
    def pools(self) -> list[str]:
        return [pool.name for pool in self.lot.pools]

    @property
    def names(self) -> list[str]:
        return [status.name for status in self.catalog.servers()]

    def of(self, name: str) -> list:
        return [one for one in self.built if one.name == name]


@pytest.fixture
async def yard(server) -> Yard:
    made = Yard(server)
    await made.catalog.start()
    return made


async def test_the_same_file_again_changes_nothing(yard):
    assert not await yard.fleet.apply([source("a"), source("b")])
    assert len(yard.built) == 2


async def test_new_ones_come_and_old_ones_go_and_the_rest_is_left_alone(yard, context):
    call = yard.catalog.call("a__wait", b"{}", context)  # of one that stays
    yard.of("a")[0].offer("wait")
    await anext(call)
    assert await yard.fleet.apply([source("c"), source("a")])
    assert yard.names == ["c", "a"] and len(yard.of("a")) == 1
    assert not yard.of("a")[0].cancelled.is_set() and yard.of("a")[0].drained is None
    (gone,) = yard.of("b")
    assert gone.status.state is ServerState.STOPPED and gone.drained == 7.0
    assert [tool.name for tool in yard.catalog.list(LOCAL)] == ["c__tool", "a__wait"]
    await call.aclose()


async def test_a_changed_one_is_replaced_in_its_place_and_drained(yard):
    assert await yard.fleet.apply([source("a", "other"), source("b")])
    before, now = yard.of("a")
    assert yard.names == ["a", "b"]
    assert before.status.state is ServerState.STOPPED and before.drained == 7.0
    assert now.status.state is ServerState.READY and now.drained is None


async def test_another_order_is_a_change(yard):
    assert await yard.fleet.apply([source("b"), source("a")])
    assert yard.names == ["b", "a"] and len(yard.built) == 2


async def test_what_was_added_beside_the_file_stays(yard):
    await yard.fleet.add(source("extra"))
    await yard.fleet.apply([source("b")])
    assert yard.names == ["b", "extra"]


async def test_a_file_that_names_what_was_added_takes_it_over(yard):
    await yard.fleet.add(source("extra"))
    await yard.fleet.apply([source("a"), source("b"), source("extra", "other")])
    assert len(yard.of("extra")) == 2
    await yard.fleet.apply([source("a"), source("b")])
    assert yard.names == ["a", "b"]


async def test_what_was_removed_by_hand_stays_away_until_the_file_changes_it(yard):
    await yard.fleet.remove("a")
    await yard.fleet.apply([source("a"), source("b"), source("c")])
    assert yard.names == ["b", "c"]
    await yard.fleet.apply([source("a", "other"), source("b"), source("c")])
    assert yard.names == ["a", "b", "c"]


async def test_what_replaces_a_removed_one_by_hand_is_not_the_files(yard):
    await yard.fleet.remove("a")
    await yard.fleet.add(source("a", "mine"))
    await yard.fleet.apply([source("b")])
    assert yard.names == ["b", "a"]


async def test_names_are_taken_once_and_unknown_ones_are_not_found(yard):
    with pytest.raises(AlreadyExists):
        await yard.fleet.add(source("a"))
    with pytest.raises(NotFound):
        await yard.fleet.remove("none")


async def test_a_removal_goes_on_when_its_caller_leaves_and_ends_with_the_fleet(yard):
    held = asyncio.Event()
    (server,) = yard.of("a")

    async def drain(grace: float) -> None:
        held.set()
        await asyncio.Event().wait()

    server.drain = drain
    removing = asyncio.create_task(yard.fleet.remove("a"))
    await held.wait()
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)
    assert server.status.state is ServerState.READY and yard.names == ["b"]
    await yard.fleet.close()
    assert server.status.state is ServerState.STOPPED


async def test_their_pools_come_and_go_with_them(yard):
    assert yard.pools == ["upstream/a", "upstream/b"]
    await yard.fleet.add(source("c"))
    await yard.fleet.apply([ServerSource("b", Process("run"), concurrency=3)])
    assert yard.pools == ["upstream/b", "upstream/c"]
    assert yard.lot.get("upstream/b").capacity == {"calls": 3, "memory": 1000}
    await yard.fleet.remove("c")
    assert yard.pools == ["upstream/b"]
