"""Models that come and go: who waits for whom, what is refused, and what is left behind."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from narthex_server.errors import (
    AlreadyExists,
    FailedPrecondition,
    InternalError,
    InvalidModelFile,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from narthex_server.pipelines.library import ModelLibrary, State
from narthex_server.pipelines.models import Kind, RemoteModel
from narthex_server.pipelines.order import Order, Wanted
from narthex_server.pipelines.remote.handle import RemoteHandle
from narthex_server.pipelines.remote.refusals import Refusals
from narthex_server.pipelines.reports import LoadProgress
from narthex_server.progress import Stage


class ScriptedLoader:
    """Loads a given model under any name; `gate` holds loads up, `error` is what they end with."""

    def __init__(self, model) -> None:
        self.model = model
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.loads: list[Order] = []
        self.began, self.given_up = threading.Event(), threading.Event()
        self.stopped: asyncio.Queue[str] = asyncio.Queue()
        self.most = self._now = 0

    def load(self, order, progress):
        self._now += 1
        self.most = max(self.most, self._now)
        self.loads.append(order)
        self.began.set()
        try:
            for stage in Stage:
                progress(stage, 0.0)
                progress(stage, 0.001)
                self.gate.wait(20)
                progress(stage, 1.0)
            if self.error is not None:
                raise self.error
        except BaseException:
            self.given_up.set()
            raise
        finally:
            self._now -= 1

    def start(self, name, loaded):
        return replace(self.model, name=name)

    async def stop(self, model) -> None:
        self.stopped.put_nowait(model.name)


Libraries = Callable[..., tuple[ModelLibrary, ScriptedLoader]]


@pytest.fixture
async def libraries(serve, tmp_path) -> AsyncIterator[Libraries]:
    made = []
    async with serve("x") as model:

        def make(**options) -> tuple[ModelLibrary, ScriptedLoader]:
            loader = ScriptedLoader(model)
            made.append(ModelLibrary(loader, root=tmp_path, **options))
            return made[-1], loader

        yield make
        for library in made:
            await library.stop()


async def load(library: ModelLibrary, name: str = "m", path: str = "x") -> list:
    return [event async for event in library.load_named(name, path, Wanted())]


def state(library: ModelLibrary, name: str = "m") -> State:
    return library.describe(name).state


@asynccontextmanager
async def timed_out_after(seconds: float = 20):
    async with asyncio.timeout(seconds):
        yield


async def test_a_load_tells_its_stages_and_ends_with_the_model(libraries):
    library, loader = libraries()
    *progress, ready = await load(library)
    assert all(isinstance(event, LoadProgress) for event in progress)
    assert list(dict.fromkeys(event.stage for event in progress)) == [*Stage]
    fractions = [event.fraction for event in progress]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert ready.state is State.READY and ready.ready_time and library.get("m") is ready.model
    assert loader.loads[0].source.is_absolute()
    with pytest.raises(AlreadyExists, match=r"'m' already \(ready\)"):
        await load(library)


@pytest.mark.parametrize(
    ("order", "field"),
    [
        (("", "x", Wanted()), "name"),
        (("a b", "x", Wanted()), "name"),
        (("m", "", Wanted()), "path"),
        (("m", "x", Wanted(compute="int3")), "compute"),
        (("m", "x", Wanted(max_context=15)), "max_context"),
        (("m", "x", Wanted(max_slots=1025)), "max_slots"),
    ],
)
async def test_orders_that_cannot_be_kept_are_refused_by_field(libraries, order, field):
    library, loader = libraries()
    with pytest.raises(InvalidRequest) as caught:
        [_ async for _ in library.load_named(*order)]
    assert [violation.field for violation in caught.value.violations] == [field]
    assert not loader.loads and not library.listed()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd"])
async def test_callers_load_only_below_the_root(libraries, serve, path):
    library, _ = libraries()
    with pytest.raises(PermissionDenied):
        await load(library, path=path)
    with pytest.raises(PermissionDenied, match="--model-root"):
        await load(ModelLibrary(ScriptedLoader(None)))


async def test_loads_take_turns(libraries):
    library, loader = libraries()
    await asyncio.gather(*(load(library, name) for name in "abc"))
    assert loader.most == 1 and [model.name for model in library] == ["a", "b", "c"]


async def test_a_failed_load_leaves_nothing_behind_and_names_no_place(libraries, tmp_path):
    library, loader = libraries()
    loader.error = InvalidModelFile(f"{tmp_path / 'sub' / 'x'}: broken, as all of {tmp_path} is")
    with pytest.raises(InvalidModelFile) as caught:
        await load(library, path="sub/x")
    assert caught.value.message == "sub/x: broken, as all of . is"
    assert not library.listed()
    loader.error = None
    assert (await load(library))[-1].state is State.READY


async def test_a_load_that_is_given_up_frees_the_name_at_once_and_ends_in_the_thread(libraries):
    library, loader = libraries()
    loader.gate.clear()
    async with aclosing(library.load_named("m", "x", Wanted())) as events:
        await anext(events)
        assert await asyncio.to_thread(loader.began.wait, 20)
        assert state(library) is State.LOADING
        with pytest.raises(Unavailable, match="loading"):
            library.get("m")
        with pytest.raises(Unavailable):
            await library.unload("m")
    assert not library.listed()
    second = asyncio.create_task(load(library))
    loader.gate.set()
    async with timed_out_after():
        assert (await second)[-1].state is State.READY
    assert loader.given_up.is_set() and loader.most == 1


async def test_unloading_refuses_new_requests_and_waits_for_running_ones(libraries):
    library, loader = libraries()
    await load(library)
    async with library.use("m") as model:
        assert model.name == "m"
        unloading = asyncio.create_task(library.unload("m"))
        await asyncio.sleep(0)
        assert state(library) is State.UNLOADING
        with pytest.raises(Unavailable, match="'m' is unloading"):
            library.get("m")
        with pytest.raises(Unavailable):
            await library.unload("m")
        assert loader.stopped.empty()
    async with timed_out_after():
        await unloading
    assert loader.stopped.get_nowait() == "m" and not library.listed()
    with pytest.raises(NotFound):
        await library.unload("m")


async def test_unloading_goes_on_when_its_caller_is_gone(libraries):
    library, loader = libraries()
    await load(library)
    async with library.use("m"):
        caller = asyncio.create_task(library.unload("m"))
        await asyncio.sleep(0)
        caller.cancel()
    async with timed_out_after():
        assert await loader.stopped.get() == "m"


async def test_an_idle_model_leaves_and_one_load_brings_it_back_for_all(libraries):
    library, loader = libraries(idle_unload=0.01)
    await load(library)
    async with timed_out_after():
        await loader.stopped.get()
    idle = library.describe("m")
    assert idle.state is State.IDLE and library.get("m") is idle.model  # the facts stay
    loader.gate.clear()

    async def request() -> str:
        async with library.use("m") as model:
            return model.name

    requests = [asyncio.create_task(request()) for _ in range(5)]
    await asyncio.sleep(0)
    assert state(library) is State.LOADING
    requests.pop().cancel()
    loader.gate.set()
    async with timed_out_after():
        assert await asyncio.gather(*requests) == ["m"] * 4
    assert len(loader.loads) == 2


async def test_a_model_in_use_stays(libraries):
    library, loader = libraries(idle_unload=0.01)
    await load(library)
    async with library.use("m"):
        async with library.use("m"):
            await load(library, "later")
        async with timed_out_after():
            assert await loader.stopped.get() == "later"
        assert state(library) is State.READY


async def test_a_reload_that_fails_is_told_to_all_and_tried_again(libraries, tmp_path):
    library, loader = libraries(idle_unload=0.01)
    await load(library)
    async with timed_out_after():
        await loader.stopped.get()
    loader.error = NotFound(f"there is no model at {tmp_path / 'x'}")

    async def request() -> str:
        async with library.use("m") as model:
            return model.name

    failed = await asyncio.gather(*(request() for _ in range(3)), return_exceptions=True)
    assert {type(error) for error in failed} == {NotFound} and len(loader.loads) == 2
    described = library.describe("m")
    assert (described.state, described.failure) == (State.FAILED, "there is no model at x")
    loader.error = OSError("disk")
    with pytest.raises(InternalError, match="the log says why"):
        await request()
    loader.error = None
    assert await request() == "m" and state(library) is State.READY


async def test_an_idle_model_is_unloaded_without_an_engine_to_stop(libraries):
    library, loader = libraries(idle_unload=0.01)
    await load(library)
    async with timed_out_after():
        await loader.stopped.get()
        await library.unload("m")
    assert loader.stopped.empty() and not library.listed()


async def test_followers_know_what_may_be_named(libraries):
    library, _ = libraries()
    seen = []

    async def follow(models) -> None:
        seen.append([model.name for model in models])

    await library.follow(follow)
    await load(library)
    await library.unload("m")
    assert seen == [[], ["m"], []]


async def test_the_default_is_kept_while_it_is_away(libraries):
    library, _ = libraries(default="b")
    for name in "abc":
        await load(library, name)
    assert library.get().name == "b"
    await library.unload("b")
    with pytest.raises(InvalidRequest, match="a, c"):
        library.get()
    await load(library, "b")
    assert library.get().name == "b"


class Untouched:
    """A connection that is never used, and closes."""

    async def close(self) -> None:
        pass


async def test_a_remote_model_fails_and_recovers_without_a_load_and_never_idles(libraries) -> None:
    library, loader = libraries(idle_unload=1e-9)
    handle = RemoteHandle(Untouched(), Refusals("m"))
    loader.model = RemoteModel("m", Kind.TEXT, handle)
    await load(library)
    handle.failure = "it is down"
    (listed,) = library.listed()
    assert (listed.state, listed.failure, listed.model.name) == (State.FAILED, "it is down", "m")
    handle.failure = ""
    async with library.use("m") as model:
        assert isinstance(model, RemoteModel)
    for _ in range(20):  # many times as long as it may idle
        await asyncio.sleep(0)
    assert library.describe("m").state is State.READY and len(loader.loads) == 1
    with pytest.raises(FailedPrecondition, match="remote: adapters belong to the server that runs it"):
        library.local("m")
    await library.unload("m")
    assert await loader.stopped.get() == "m"
