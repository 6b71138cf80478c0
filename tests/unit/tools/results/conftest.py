"""A tool that counts its calls and goes on when it is told to, behind the step that keeps results."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

import pytest
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.arguments import parse_arguments
from narthex_server.tools.mcp_context import PLAIN, McpContext
from narthex_server.tools.results.cache import ResultCache
from narthex_server.tools.results.rule import CacheRule, Keeping
from narthex_server.tools.results.step import CacheStep
from narthex_server.tools.step import Invocation
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

TTL = 10.0


@dataclass
class Scene:
    """`server` has the tools; every call yields `events`, waits for `go`, and ends with a result of its number."""

    rule: CacheRule | None = field(default_factory=lambda: CacheRule(("read",)))
    cache: CacheRule | None = None
    edition_of: dict = field(default_factory=dict)  # by tenant and session; else `edition`
    edition: object = 1
    now: float = 0.0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list = field(default_factory=list)
    events: tuple = ()
    end: object = None  # a ToolResult or an error, instead
    calls: int = 0
    lookups: list = field(default_factory=list)

    def __post_init__(self):
        self.go.set()
        self.cache = self.rule
        self.store = ResultCache(clock=lambda: self.now)
        looked = lambda server, lookup: self.lookups.append(lookup)  # noqa: E731
        self.step = CacheStep(Keeping(False, TTL), self.store, self.find, looked)

    def find(self, server):
        return self.server if server == "s" else None

    @property
    def server(self):
        scene = self

        class Server:
            cache = scene.cache

            def edition(self, context):
                return scene.edition_of.get((context.principal.tenant, context.session), scene.edition)

        return Server()

    async def run(self, call: Invocation) -> AsyncGenerator[ToolEvent]:
        self.calls += 1
        number = self.calls
        try:
            for event in self.events:
                yield event
            self.begun.set()
            await self.go.wait()
            if isinstance(self.end, BaseException):
                raise self.end
            yield self.end or ToolResult(b'["%d"]' % number)
        finally:
            self.ended.append(number)

    def call(
        self, raw: bytes = b"{}", tool: str = "read", who: Principal = LOCAL, session: str = "",
        deadline: float | None = None, mcp: McpContext = PLAIN, **more,
    ) -> Invocation:  # fmt: skip
        described = replace(Tool(f"s__{tool}", "", "", b"{}", server="s", own_name=tool), **more)
        context = CallContext(who, "test", deadline, mcp, session=session)
        return Invocation(described, raw, parse_arguments(raw), context)

    def around(self, call: Invocation) -> AsyncGenerator[ToolEvent]:
        return self.step.around(call, self.run)

    async def events_of(self, call: Invocation) -> list[ToolEvent]:
        return [event async for event in self.around(call)]

    async def ask(self, *args, **more) -> bytes:
        """The content of the result of a call."""
        return (await self.events_of(self.call(*args, **more)))[-1].content

    def begin(self, *args, **more) -> asyncio.Task:
        return asyncio.create_task(self.events_of(self.call(*args, **more)))


@pytest.fixture
def scene() -> Scene:
    return Scene()
