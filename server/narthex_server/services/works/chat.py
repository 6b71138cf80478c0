"""Conversations to continue."""

import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import lot_pb2 as lot

from narthex_server.agent.offer import Offer
from narthex_server.pipelines import serving
from narthex_server.pipelines.models import Models
from narthex_server.pipelines.request import nth, refuse
from narthex_server.principal import CALLER, REQUEST_ID
from narthex_server.services import requests
from narthex_server.services.agents import Agents
from narthex_server.services.generation import GenerationService
from narthex_server.services.relay import Context
from narthex_server.services.works.generate import SEED_BITS
from narthex_server.tools.catalog import Catalog


class ChatWork:
    """As ChatStream."""

    name = "chat"

    def __init__(self, service: GenerationService, models: Models, catalog: Catalog, agents: Agents) -> None:
        self._service = service
        self._models = models
        self._catalog = catalog
        self._agents = agents

    def request(self, work: lot.Work) -> wire.ChatStreamRequest:
        return wire.ChatStreamRequest(spec=work.chat)

    def parse(self, data: bytes) -> wire.ChatStreamRequest:
        return wire.ChatStreamRequest.FromString(data)

    def content(self, request: wire.ChatStreamRequest) -> Sequence[bytes]:
        return (request.spec.SerializeToString(deterministic=True),)

    def settle(self, request: wire.ChatStreamRequest) -> None:
        request.resumable = False  # a ticket can be joined again anyway
        if not request.spec.sampling.HasField("seed"):
            request.spec.sampling.seed = secrets.randbits(SEED_BITS)

    async def check(self, request: wire.ChatStreamRequest) -> bool:
        spec, caller = request.spec, CALLER.get()
        model = self._models.get(spec.model)
        requests.completions(spec)
        offered: Sequence[str] = ()
        if spec.tool_execution == wire.TOOL_EXECUTION_SERVER:
            options = requests.agent_options(spec, self._agents.defaults)
            refuse(options.validate())
            own = frozenset(tool.name for tool in spec.tools)
            offered = [tool.name for tool in Offer(self._catalog, caller, options.catalog_tools, own).specs]
        if not spec.HasField("session"):
            await serving.chat(model).check(nth(requests.chat_request(spec, REQUEST_ID.get()), 0))
            return all(self._catalog.repeatable(name, caller) for name in offered)
        if spec.session.id:
            await self._agents.sessions.get(caller, spec.session.id)
        return False  # the session would have its turns twice

    def acted(self, request: wire.ChatStreamRequest, events: Sequence[wire.ChatStreamResponse]) -> bool:
        if request.spec.HasField("session"):
            return bool(events)
        own = {tool.name for tool in request.spec.tools}
        return any(event.HasField("tool_call") and event.tool_call.name not in own for event in events)

    def run(self, request: wire.ChatStreamRequest, context: Context) -> AsyncGenerator[wire.ChatStreamResponse]:
        return cast(AsyncGenerator[wire.ChatStreamResponse], self._service.ChatStream(request, context))

    def waits(self, event: wire.ChatStreamResponse) -> bool:
        return event.HasField("tool_activity") and event.tool_activity.HasField("input_required")

    def results(self, events: Sequence[wire.ChatStreamResponse]) -> Iterator[wire.ChatResponse]:
        """As Chat answers."""
        reply = wire.ChatResponse()
        turns: dict[int, _Turns] = {}
        for event in events:
            turn = turns.setdefault(event.index, _Turns())
            match event.WhichOneof("event"):
                case "started":
                    reply.request_id, reply.model = event.started.request_id, event.started.model
                    reply.session_id = event.started.session_id
                    if event.started.HasField("prompt"):
                        reply.prompt.CopyFrom(event.started.prompt)
                case "finished":
                    turn.finished.CopyFrom(event.finished)
                    usage = event.finished.usage
                case _:
                    turn.add(event)
        reply.messages.extend(turns[0].messages)
        for index, turn in sorted(turns.items()):
            made = reply if index == 0 else reply.further_completions.add()
            made.finished.CopyFrom(turn.finished)
            made.finished.ClearField("usage")
            made.token_ids.extend(turn.token_ids)
            made.logprobs.extend(turn.logprobs)
            if isinstance(made, wire.ChatCompletion):
                made.message.CopyFrom(turn.messages[-1])
        reply.finished.usage.CopyFrom(usage)
        yield reply


class _Turns:
    """The turns of one answer; token ids and log probabilities are those of its last round."""

    def __init__(self) -> None:
        self.finished = wire.ChatStreamResponse().finished
        self.token_ids: list[int] = []
        self.logprobs: list[common.PositionLogprobs] = []
        self._rounds: dict[int, tuple[wire.ChatMessage, list[wire.ChatMessage]]] = {}

    @property
    def messages(self) -> list[wire.ChatMessage]:
        made = []
        for said, results in self._rounds.values() or [(wire.ChatMessage(role=wire.ROLE_ASSISTANT), [])]:
            order = {call.id: place for place, call in enumerate(said.tool_calls)}
            made += [said, *sorted(results, key=lambda one: order.get(one.tool_call_id, len(order)))]
        return made

    def add(self, event: wire.ChatStreamResponse) -> None:
        if event.round not in self._rounds:
            self._rounds[event.round] = wire.ChatMessage(role=wire.ROLE_ASSISTANT), []
            self.token_ids, self.logprobs = [], []
        said, results = self._rounds[event.round]
        match event.WhichOneof("event"):
            case "text_delta":
                if event.text_delta.text:
                    part = said.content[0] if said.content else said.content.add()
                    part.text += event.text_delta.text
                self.token_ids += event.text_delta.token_ids
                self.logprobs += event.text_delta.logprobs
            case "reasoning_delta":
                said.reasoning += event.reasoning_delta.text
            case "tool_call":
                said.tool_calls.append(event.tool_call)
            case "tool_result":
                result = event.tool_result
                message = wire.ChatMessage(role=wire.ROLE_TOOL, tool_call_id=result.tool_call_id, name=result.name)
                if result.text:
                    message.content.add(text=result.text)
                results.append(message)
