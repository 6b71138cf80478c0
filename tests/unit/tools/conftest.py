import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from narthex_server.engine.handle import EngineHandle
from narthex_server.errors import NotFound
from narthex_server.loading import LoadOptions, load
from narthex_server.pipelines.models import Models, TextModel
from narthex_server.principal import LOCAL
from narthex_server.tools.audience import Audience
from narthex_server.tools.completion import Completion, Reference, Typed
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.prompt import FilledPrompt, Prompt, PromptArgument
from narthex_server.tools.resource import Contents, Part, Resource, ResourceTemplate
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import ServerState, ServerStatus, SharedServer, Vitals
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

DEMO = Path(__file__).parents[3] / "models" / "demo" / "model"


class Echo:
    """A native tool that answers with its arguments."""

    def __init__(self, name: str, schema: bytes = b"{}") -> None:
        self.tool = Tool(name, "", "", schema)

    async def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
        yield ToolResult(b"[]", arguments)


class Server(SharedServer):
    """An in-process server, by the same protocol as an upstream; its state, and what it offers, are set by hand."""

    def __init__(
        self,
        name: str,
        *tools: str,
        prefix: str | None = None,
        presentation: Presentation | None = None,
        tenants: tuple[str, ...] = ("*",),
    ) -> None:
        self.name = name
        self.presentation = presentation or Presentation(prefix)
        self.tenants = Audience(tenants)
        self.status = ServerStatus(name, "test", ServerState.STARTING)
        self.tools = tuple(Tool(tool, "", "", b"{}") for tool in tools)
        self.cancelled = asyncio.Event()
        self.has_resources = True
        self.resources: tuple[Resource, ...] = ()
        self.templates: tuple[ResourceTemplate, ...] = ()
        self.prompts: tuple[Prompt, ...] = ()
        self.unlisted: set[str] = set()
        self.failure: Exception | None = None  # of all that is read
        self.watched: frozenset[str] = frozenset()
        self.updated: Callable[[str], None] = lambda uri: None
        self.vitals = Vitals()
        self.cache: CacheRule | None = CacheRule()
        self.now: object = object()  # its edition, the same for all
        self.drained: float | None = None
        self._changed: Callable[[], None] = lambda: None

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.become(ServerState.READY)

    def become(self, state: ServerState, reason: str = "") -> None:
        self.status = ServerStatus(self.name, "test", state, reason)
        self._changed()

    def offer(self, *tools: str) -> None:
        self.tools = tuple(Tool(tool, "", "", b"{}") for tool in tools)
        self._changed()

    def hold(self, *uris: str, templates: tuple[str, ...] = ()) -> None:
        self.resources = tuple(Resource(uri, uri) for uri in uris)
        self.templates = tuple(ResourceTemplate(template, template) for template in templates)
        self._changed()

    def prompt(self, *prompts: str, needs: tuple[str, ...] = ()) -> None:
        arguments = tuple(PromptArgument(name, required=True) for name in needs)
        self.prompts = tuple(Prompt(prompt, arguments=arguments) for prompt in prompts)
        self._changed()

    def edition(self, context: CallContext) -> object:
        return self.now

    async def read(self, uri: str, context: CallContext) -> Contents:
        if self.failure is not None:
            raise self.failure
        known = {one.uri for one in self.resources} | self.unlisted
        if uri not in known:
            raise NotFound(uri)
        return Contents((Part(uri, f"{self.name} has {uri}"),))

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt:
        return FilledPrompt((), f"{self.name}/{prompt} {arguments}")

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        return Completion((f"{self.name}: {reference}",))

    def watch(self, uris: frozenset[str], updated: Callable[[str], None]) -> None:
        self.watched, self.updated = uris, updated

    async def watching(self) -> None:
        pass

    async def settled(self) -> None:
        pass

    def reconnect(self, tenant: str | None = None) -> None:
        self.become(ServerState.READY)

    async def drain(self, grace: float) -> None:
        self.drained = grace

    async def stop(self) -> None:
        self.become(ServerState.STOPPED)

    async def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncIterator[ToolEvent]:
        try:
            if tool == "wait":
                yield ToolResult(b"[]")
                await asyncio.Event().wait()
            yield ToolResult(b"[]", f"{self.name}/{tool}".encode())
        finally:
            self.cancelled.set()


@pytest.fixture
def echo() -> type[Echo]:
    return Echo


@pytest.fixture
def server() -> type[Server]:
    return Server


@pytest.fixture
def context() -> CallContext:
    return CallContext(LOCAL, "test")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models(tmp_path_factory) -> AsyncIterator[Models]:
    """The demo model on a real engine, for tests that run on the module's loop."""
    cache = tmp_path_factory.mktemp("graphs")
    loaded = load(DEMO, LoadOptions(threads=1, slots=2, max_context=256, cache_dir=cache))
    handle = EngineHandle(loaded.session)
    handle.start()
    models = Models()
    models.add(TextModel("demo", handle, loaded.text))
    yield models
    await handle.stop(0)
