"""Runs of a scripted model over tools made for the test."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from narthex_server.agent.cutting import Reader
from narthex_server.agent.events import AgentEvent, ToolActivity, ToolCallResult
from narthex_server.agent.host import Host
from narthex_server.agent.loop import AgentLoop
from narthex_server.agent.options import AgentOptions
from narthex_server.pipelines import serving
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import Finished, TextDelta
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest
from narthex_server.principal import Principal
from narthex_server.text.messages import Message
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.report import CallReport
from narthex_server.tools.search.searching import Searching
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent, ToolResult

SCHEMA = b'{"type": "object", "properties": {"a": {"type": "integer"}}}'
ASK = ChatRequest("r", (Message("user", "Do."),))
ANN = Principal("ann", "t")
Body = Callable[[bytes, CallContext], AsyncGenerator[ToolEvent]]


def said(text: str) -> ToolResult:
    return ToolResult(json.dumps([{"type": "text", "text": text}]).encode())


@dataclass
class Made:
    """A native tool with the given body; remembers its calls."""

    name: str
    body: Body
    annotations: bytes = b""
    seen: list[bytes] = field(default_factory=list)

    @property
    def tool(self) -> Tool:
        return Tool(self.name, "", "A tool.", SCHEMA, annotations=self.annotations)

    async def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
        self.seen.append(arguments)
        async with aclosing(self.body(arguments, context)) as events:
            async for event in events:
                yield event


@dataclass
class Ran:
    """All events of a run."""

    events: list[AgentEvent]

    @property
    def end(self) -> Finished:
        last = self.events[-1].event
        assert isinstance(last, Finished)
        assert not any(isinstance(each.event, Finished) for each in self.events[:-1])
        return last

    @property
    def results(self) -> list[ToolCallResult]:
        return [each.event for each in self.events if isinstance(each.event, ToolCallResult)]

    @property
    def wanted(self) -> list[InputRequired]:
        activities = [each.event.activity for each in self.events if isinstance(each.event, ToolActivity)]
        return [one for one in activities if isinstance(one, InputRequired)]

    def text(self, number: int) -> str:
        own = [each.event for each in self.events if each.round == number]
        return "".join(event.text for event in own if isinstance(event, TextDelta))


@dataclass
class Agent:
    """What tests say to runs."""

    host: Host = field(default_factory=Host)
    searching: Searching = field(default_factory=Searching)
    reports: list[CallReport] = field(default_factory=list)

    def on_call(self, report: CallReport) -> None:
        self.reports.append(report)

    @staticmethod
    def call(name: str, arguments: str = '{"a": 1}') -> str:
        """As the model writes it."""
        return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'

    @staticmethod
    def tool(name: str, answer: str | Body = "fine", annotations: bytes = b"") -> Made:
        async def tell(arguments: bytes, context: CallContext) -> AsyncGenerator[ToolEvent]:
            assert isinstance(answer, str)
            yield said(answer)

        return Made(name, tell if isinstance(answer, str) else answer, annotations)

    def events(
        self, model: TextModel, tools: list[Made], options: AgentOptions, mcp: McpContext | None = None,
        request: ChatRequest = ASK, principal: Principal = ANN,
    ) -> AsyncGenerator[AgentEvent]:  # fmt: skip
        stop = partial(model.handle.abort, request.request_id)
        reader = Reader(model.max_context, serving.tokenize(model))
        catalog = Catalog(tools, observers=[self], searching=self.searching)
        loop = AgentLoop(ChatPipeline(model), catalog, self.host, reader, stop)
        return loop.run(request, principal, options, None, mcp)

    async def run(
        self, model: TextModel, tools: list[Made], options: AgentOptions | None = None, **more: object
    ) -> Ran:
        options = options or AgentOptions(tuple(tool.name for tool in tools))
        async with aclosing(self.events(model, tools, options, **more)) as events:
            return Ran([event async for event in events])
