"""Models that come and go while the server runs."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, cast

from narthex_server.errors import (
    AlreadyExists,
    Cancelled,
    InternalError,
    InvalidModelFile,
    NarthexError,
    Unavailable,
)
from narthex_server.pipelines.adapters import restore
from narthex_server.pipelines.loader import Loader
from narthex_server.pipelines.models import M, Model, Models, TextModel
from narthex_server.pipelines.order import Order, Wanted
from narthex_server.pipelines.reports import LoadProgress, Reports
from narthex_server.pipelines.root import Root
from narthex_server.progress import Stage
from narthex_server.runtime import allocation
from narthex_server.sync.async_mutex import AsyncMutex
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.worker import in_thread

_log = logging.getLogger(__name__)


class State(Enum):
    """Where a model is in its life; an idle one is not in memory until the next request."""

    LOADING = "loading"
    READY = "ready"
    IDLE = "idle"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Listed:
    """A model as it is now; `model` is None until it has been loaded once, `ready_time` in seconds since 1970."""

    name: str
    state: State
    model: Model | None = None
    failure: str = ""
    ready_time: float | None = None


Follower = Callable[[Models], Awaitable[None]]


async def _nobody(models: Models) -> None:
    """The Follower where there is none."""


class LibraryObserver(Protocol):
    """Called on the event loop; must be quick and must not raise."""

    def on_loaded(self, model: str, seconds: float) -> None:
        """A model is ready, so long after its load began."""
        ...


@dataclass(slots=True, eq=False)
class _Entry:
    order: Order
    turn: AsyncMutex
    """Held while the model goes into memory or out of it."""
    state: State = State.LOADING
    model: Model | None = None
    failure: str = ""
    ready_time: float | None = None
    users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None
    reload: "asyncio.Task[Model] | None" = None

    def listed(self) -> Listed:
        failure = self.failure or (self.model.failure if self.model is not None else "")
        failed = failure and self.state is State.READY
        return Listed(self.order.name, State.FAILED if failed else self.state, self.model, failure, self.ready_time)


class ModelLibrary(Models):
    """Loads models one at a time, lends them to requests, and unloads them, also those that nobody uses for a while.

    Callers may load only what is below `root`, nothing where it is None. A model that nobody has used for
    `idle_unload` seconds leaves the memory and is loaded again for the next request; 0 is never.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        default: str = "",
        root: Path | None = None,
        idle_unload: float = 0.0,
        observer: LibraryObserver | None = None,
        locks: Locks = UNMETERED,
    ) -> None:
        super().__init__(default)
        self._loader = loader
        self._root = Root(root, "models", "--model-root")
        self._idle_unload = idle_unload
        self._observer = observer
        self._follower: Follower = _nobody
        self._following = locks.async_mutex("model_router")
        self._entries: dict[str, _Entry] = {}
        self._loading = locks.async_mutex("model_loading")
        self._locks = locks
        self._tasks: set[asyncio.Task[Any]] = set()

    async def follow(self, follower: Follower) -> None:
        """Have `follower` know the models that requests may name, now and whenever they are others."""
        self._follower = follower
        await self._changed()

    def listed(self) -> tuple[Listed, ...]:
        """All models, also those that are not ready, in the order in which they came; for any thread."""
        return tuple(entry.listed() for entry in tuple(self._entries.values()))

    def describe(self, name: str = "") -> Listed:
        """One of them; an empty name as for `find`. Errors: NotFound, InvalidRequest."""
        entry = self._entries.get(name) or self._entries[self.find(name).name]
        return entry.listed()

    async def load_named(self, name: str, path: str, wanted: Wanted) -> AsyncGenerator[LoadProgress | Listed]:
        """Load what a caller names below the root, as `load` does. Errors: also PermissionDenied."""
        file = self._root.find(path)
        try:
            async with aclosing(self.load(Order(name, file, wanted))) as events:
                async for event in events:
                    yield event
        except NarthexError as error:
            raise self._root.conceal(error, file) from error

    async def load(self, order: Order) -> AsyncGenerator[LoadProgress | Listed]:
        """Load a model after those that are being loaded: yields how far it is, then the model.

        Closing it before its end gives the load up: the name is free at once, the memory as soon as the thread notices.
        Errors: InvalidRequest, AlreadyExists, NotFound, InvalidModelFile, ResourceExhausted.
        """
        order.check()
        if (there := self._entries.get(order.name)) is not None:
            raise AlreadyExists(
                f"there is a model {order.name!r} already ({there.state.value}); unload it, or use another name",
                reason="MODEL_EXISTS",
            )
        entry = self._entries[order.name] = _Entry(order, self._locks.async_mutex("model_memory"))
        entry.unused.set()
        reports = Reports()
        bringing = self._spawn(self._bring(entry, reports))
        try:
            while (report := await reports.next()) is not None:
                yield report
            await bringing
            yield entry.listed()
        finally:
            if not bringing.done() and entry.state is State.LOADING:
                reports.cancel()
                self._drop(entry)

    async def unload(self, name: str) -> None:
        """Refuse new requests at once, let running ones end, free the memory; goes on even if the caller is gone.

        Errors: NotFound; Unavailable while it is being loaded or unloaded.
        """
        if (entry := self._entries.get(name)) is None:
            raise self._missing(name, tuple(self._entries), "")
        if entry.state in (State.LOADING, State.UNLOADING):
            raise _busy(entry)
        before, entry.state = entry.state, State.UNLOADING
        self._quiet(entry)
        self.remove(name)
        await asyncio.shield(self._spawn(self._leave(entry, before)))

    async def stop(self) -> None:
        """End everything: loads are given up, engines stop, each as its loader sees fit."""
        for task in self._tasks:
            task.cancel()
        entries, self._entries = self._entries, {}
        for entry in entries.values():
            self._quiet(entry)
        ready = [entry.model for entry in entries.values() if entry.state in (State.READY, State.UNLOADING)]
        await asyncio.gather(*(self._loader.stop(model) for model in ready if model is not None))

    @asynccontextmanager
    async def _held(self, model: M) -> AsyncIterator[M]:
        entry = self._entries[model.name]
        self._quiet(entry)
        entry.users += 1
        entry.unused.clear()
        try:
            yield cast(M, await self._awake(entry))
        finally:
            entry.users -= 1
            if not entry.users:
                entry.unused.set()
                self._watch(entry)

    async def _awake(self, entry: _Entry) -> Model:
        """The model in memory: all who find it elsewhere wait for one load, and share its failure."""
        if entry.state is State.READY and entry.model is not None:
            return entry.model
        if entry.state is State.UNLOADING:
            raise _busy(entry)
        if entry.reload is None:
            entry.state = State.LOADING
            entry.reload = self._spawn(self._reload(entry))
        return await asyncio.shield(entry.reload)

    async def _bring(self, entry: _Entry, reports: Reports) -> None:
        try:
            model = await self._made(entry, reports)
            if reports.cancelled:
                await self._loader.stop(model)
                return
            await self._seat(entry, model)
        except Cancelled:
            pass
        except BaseException:
            self._drop(entry)
            raise
        finally:
            reports.end()
            if reports.cancelled:
                await in_thread(allocation.trim)

    async def _reload(self, entry: _Entry) -> Model:
        async with entry.turn:
            entry.failure, before = "", entry.model
            try:
                model = await self._made(entry, Reports())
                try:
                    await _resume(model, before)
                except Exception:
                    await self._loader.stop(model)
                    raise
            except Exception as error:
                told = self._told(error, entry)
                entry.state, entry.failure = State.FAILED, told.message
                raise told from error
            finally:
                entry.reload = None
            await self._seat(entry, model)
            return model

    async def _made(self, entry: _Entry, reports: Reports) -> Model:
        """A model from its files, once the loads before it are over."""
        async with self._loading:
            reports(Stage.READ, 0.0)
            began = time.monotonic()
            loaded = await in_thread(self._loader.load, entry.order, reports)
            model = self._loader.start(entry.order.name, loaded)
        seconds = time.monotonic() - began
        _log.info("model %s is loaded after %.2f s", entry.order.name, seconds)
        if self._observer is not None:
            self._observer.on_loaded(entry.order.name, seconds)
        return model

    async def _doze(self, entry: _Entry) -> None:
        async with entry.turn:
            if entry.users or entry.state is not State.READY or entry.model is None:
                return
            entry.state = State.IDLE
            _log.info("model %s leaves the memory: nobody used it for %g s", entry.order.name, self._idle_unload)
            await self._loader.stop(entry.model)

    async def _leave(self, entry: _Entry, state: State) -> None:
        await self._changed()
        await entry.unused.wait()
        async with entry.turn:
            if state is State.READY and entry.model is not None:
                await self._loader.stop(entry.model)
        self._drop(entry)
        entry.model = None

    async def _seat(self, entry: _Entry, model: Model) -> None:
        entry.state, entry.model, entry.ready_time = State.READY, model, time.time()
        self.add(model)
        self._watch(entry)
        await self._changed()

    def _watch(self, entry: _Entry) -> None:
        """Begin to count the time without requests."""
        loaded = entry.model is not None and entry.model.loaded
        if self._idle_unload and loaded and entry.state is State.READY and not entry.users:
            self._quiet(entry)
            loop = asyncio.get_running_loop()
            entry.timer = loop.call_later(self._idle_unload, lambda: self._spawn(self._doze(entry)))

    def _quiet(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    async def _changed(self) -> None:
        async with self._following:  # the last one to be told knows the newest
            await self._follower(self)

    def _drop(self, entry: _Entry) -> None:
        """Free the name."""
        if self._entries.get(entry.order.name) is entry:
            del self._entries[entry.order.name]

    def _missing(self, name: str, known: Any, kind: str) -> NarthexError:
        if name and (entry := self._entries.get(name)) is not None:
            return _busy(entry)
        return super()._missing(name, known, kind)

    def _told(self, error: Exception, entry: _Entry) -> NarthexError:
        """What callers may know of a reload's failure: no places on the server, and nothing of what is not typed."""
        source = entry.order.source
        if isinstance(error, NarthexError) and not isinstance(error, InternalError):
            return self._root.conceal(error, source) if isinstance(source, Path) else error
        _log.error("model %s cannot be loaded again", entry.order.name, exc_info=error)
        return InternalError(f"model {entry.order.name!r} cannot be loaded again; the log says why")

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A task that outlives whoever asked for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # who waited may be gone
        return task


async def _resume(model: Model, before: Model | None) -> None:
    """Make the model what it was. Errors: InvalidModelFile where its files have become something else."""
    if type(model) is not type(before):
        raise InvalidModelFile(f"what is there now {model.kind.value}; before, the model did not")
    if isinstance(model, TextModel) and isinstance(before, TextModel):
        await restore(model, before)


def _busy(entry: _Entry) -> Unavailable:
    name, state = entry.order.name, entry.state.value
    reason = f"MODEL_{state.upper()}"
    return Unavailable(f"model {name!r} is {state}; retry later", reason=reason, metadata={"model": name})
