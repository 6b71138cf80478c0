"""GenerationService over the text pipelines and the agent loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from grpc.aio import ServicerContext
from narthex.v1 import generation_pb2 as wire

from narthex_server.agent.cutting import Reader
from narthex_server.agent.events import AgentEvent
from narthex_server.agent.loop import AgentLoop
from narthex_server.agent.sessions.session import Summary
from narthex_server.agent.sessions.sessions import Conversation
from narthex_server.errors import Violation
from narthex_server.pipelines import serving
from narthex_server.pipelines.events import (
    ChatEvent,
    Finished,
    FinishReason,
    GenerateEvent,
    Started,
    TextDelta,
    Usage,
)
from narthex_server.pipelines.first_call import FirstCall
from narthex_server.pipelines.models import AnyText, Models, RemoteModel
from narthex_server.pipelines.request import ChatRequest, nth, refuse
from narthex_server.pipelines.several import several
from narthex_server.principal import CALLER, REQUEST_ID
from narthex_server.services import replies, requests
from narthex_server.services.agents import Agents
from narthex_server.services.call import call_context, check_options
from narthex_server.services.complete import complete
from narthex_server.services.paging import page
from narthex_server.services.recording import recorded
from narthex_server.services.running import Running
from narthex_server.services.turns import Turns
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.tool import CallContext

MOST_ABORTED = 1000

Context = ServicerContext[Any, Any]


@complete(wire.DESCRIPTOR.services_by_name["GenerationService"])
class GenerationService:
    """Generates text; the unary calls are their streams, collected."""

    def __init__(self, models: Models, catalog: Catalog, agents: Agents | None = None) -> None:
        self._models = models
        self._catalog = catalog
        self._agents = agents or Agents()
        self._running = Running()

    async def GenerateStream(
        self, request: wire.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[wire.GenerateStreamResponse]:
        check_options(request.options, context)
        spec = request.spec
        async with self._models.use(spec.model) as model, aclosing(self._generation(spec, model)) as events:
            async for index, event in events:
                made = wire.GenerateStreamResponse(index=index)
                match event:
                    case Started():
                        started = replies.started_to_wire(event, REQUEST_ID.get(), model.name, spec.response)
                        made.started.CopyFrom(started)
                    case TextDelta():
                        made.text_delta.CopyFrom(replies.delta_to_wire(event, spec.response))
                    case Finished():
                        made.finished.CopyFrom(replies.finished_to_wire(event))
                yield made

    async def Generate(self, request: wire.GenerateRequest, context: Context) -> wire.GenerateResponse:
        check_options(request.options, context)
        spec = request.spec
        reply = wire.GenerateResponse(request_id=REQUEST_ID.get())
        reply.further_completions.extend(wire.Completion() for _ in range(requests.completions(spec) - 1))
        made: list[wire.GenerateResponse | wire.Completion] = [reply, *reply.further_completions]
        texts: list[list[str]] = [[] for _ in made]
        async with self._models.use(spec.model) as model, aclosing(self._generation(spec, model)) as events:
            reply.model = model.name
            async for index, event in events:
                match event:
                    case Started():
                        replies.fill_prompt(reply.prompt, event, spec.response)
                    case TextDelta():
                        texts[index].append(event.text)
                    case Finished():
                        replies.fill_end(made[index], event, spec.response)
                        usage = replies.finished_to_wire(event).usage
        for completion, text in zip(made, texts, strict=True):
            completion.text = "".join(text) if replies.wants_text(spec.response) else ""
        reply.finished.usage.CopyFrom(usage)
        return reply

    async def ChatStream(
        self, request: wire.ChatStreamRequest, context: Context
    ) -> AsyncIterator[wire.ChatStreamResponse]:
        check_options(request.options, context, timeless=request.resumable)
        call = call_context(context, request.mcp)
        asked = call.mcp if request.HasField("mcp") else None
        if not request.resumable:
            events = self._stream(request.spec, call, asked)
        else:
            alone = replace(call, deadline=None)  # the deadline is its first stream's
            runs = self._agents.runs
            events = runs.start(call.principal, lambda run: self._stream(request.spec, alone, asked, run.id)).follow()
        async with aclosing(events):
            async for event in events:
                yield event

    async def ResumeChat(
        self, request: wire.ResumeChatRequest, context: Context
    ) -> AsyncIterator[wire.ResumeChatResponse]:
        run = self._agents.runs.find(CALLER.get(), request.run_id)
        async with aclosing(run.follow(request.after_sequence)) as events:
            async for event in events:
                yield wire.ResumeChatResponse(event=event)

    async def Chat(self, request: wire.ChatRequest, context: Context) -> wire.ChatResponse:
        check_options(request.options, context)
        spec = request.spec
        reply = wire.ChatResponse(request_id=REQUEST_ID.get())
        reply.further_completions.extend(wire.ChatCompletion() for _ in range(requests.completions(spec) - 1))
        made: list[wire.ChatResponse | wire.ChatCompletion] = [reply, *reply.further_completions]
        turns = [Turns() for _ in made]
        async with self._opened(spec) as (model, conversation):
            reply.model, reply.session_id = model.name, conversation.id if conversation else ""
            async with aclosing(self._chat(spec, model, conversation, call_context(context), None)) as events:
                async for index, event in events:
                    turns[index].add(event)
                    match event.event:
                        case Started():
                            replies.fill_prompt(reply.prompt, event.event, spec.response)
                        case Finished() as finished:
                            replies.fill_end(made[index], finished, spec.response)
                            usage = replies.finished_to_wire(finished).usage
        reply.finished.usage.CopyFrom(usage)
        reply.messages.extend(map(replies.message_to_wire, turns[0].messages()))
        for completion, said in zip(reply.further_completions, turns[1:], strict=True):
            completion.message.CopyFrom(replies.message_to_wire(said.messages()[-1]))
        return reply

    async def ListSessions(self, request: wire.ListSessionsRequest, context: Context) -> wire.ListSessionsResponse:
        found = await self._agents.sessions.list(CALLER.get())
        shown, token = page(found, _latest_first, request.page_size, request.page_token)
        return wire.ListSessionsResponse(sessions=map(replies.session_to_wire, shown), next_page_token=token)

    async def GetSession(self, request: wire.GetSessionRequest, context: Context) -> wire.GetSessionResponse:
        found = await self._agents.sessions.get(CALLER.get(), request.id)
        return wire.GetSessionResponse(
            session=replies.session_to_wire(found.summary), messages=map(replies.message_to_wire, found.messages)
        )

    async def DeleteSession(self, request: wire.DeleteSessionRequest, context: Context) -> wire.DeleteSessionResponse:
        await self._agents.sessions.forget(CALLER.get(), request.id)
        return wire.DeleteSessionResponse()

    async def Abort(self, request: wire.AbortRequest, context: Context) -> wire.AbortResponse:
        if not 1 <= len(request.request_ids) <= MOST_ABORTED:
            refuse([Violation("request_ids", f"must be 1 to {MOST_ABORTED}, got {len(request.request_ids)}")])
        tenant = CALLER.get().tenant
        ended = [request_id for request_id in request.request_ids if self._running.abort(request_id, tenant)]
        return wire.AbortResponse(aborted_request_ids=ended)

    async def Tokenize(self, request: wire.TokenizeRequest, context: Context) -> wire.TokenizeResponse:
        return wire.TokenizeResponse(token_ids=await self._tokens(request))

    async def CountTokens(self, request: wire.CountTokensRequest, context: Context) -> wire.CountTokensResponse:
        tokens = await self._tokens(request)
        return wire.CountTokensResponse(tokens=len(tokens), max_context=self._models.get(request.model).max_context)

    async def Detokenize(self, request: wire.DetokenizeRequest, context: Context) -> wire.DetokenizeResponse:
        skip = request.skip_special_tokens if request.HasField("skip_special_tokens") else True
        text = await serving.tokenize(self._models.get(request.model)).decode(request.token_ids, skip)
        return wire.DetokenizeResponse(text=text)

    async def _tokens(self, request: wire.TokenizeRequest | wire.CountTokensRequest) -> tuple[int, ...]:
        known = serving.tokenize(self._models.get(request.model))
        if request.WhichOneof("input") == "chat":
            chat = request.chat
            options = requests.template_options(chat.template_arguments)
            messages, tools = requests.messages_from(chat.messages), requests.tools_from(chat.tools)
            return await known.encode_chat(ChatRequest(REQUEST_ID.get(), messages, tools, template_options=options))
        if request.WhichOneof("input") is None:
            refuse([Violation("text", "either this or chat must be set")])
        special = request.add_special_tokens if request.HasField("add_special_tokens") else True
        return await known.encode(request.text, special)

    async def _generation(self, spec: wire.GenerationSpec, model: AnyText) -> AsyncGenerator[tuple[int, GenerateEvent]]:
        """The events of all completions, each with its completion's index."""
        pipeline = serving.generate(model)
        with self._running.enter(REQUEST_ID.get(), CALLER.get().tenant, model) as generation:
            request = requests.generate_request(spec, generation.name)
            streams = [pipeline.stream(nth(request, index)) for index in range(requests.completions(spec))]
            async with aclosing(several(streams)) as events:
                async for event in events:
                    yield event

    @asynccontextmanager
    async def _opened(self, spec: wire.ChatSpec) -> AsyncIterator[tuple[AnyText, Conversation | None]]:
        """The model and, if one is asked for, the session."""
        async with self._models.use(spec.model) as model:
            if not spec.HasField("session"):
                yield model, None
                return
            async with self._agents.sessions.open(CALLER.get(), spec.session.id) as conversation:
                yield model, conversation

    async def _stream(
        self, spec: wire.ChatSpec, call: CallContext, asked: McpContext | None, run_id: str = ""
    ) -> AsyncGenerator[wire.ChatStreamResponse]:
        async with (
            self._opened(spec) as (model, conversation),
            aclosing(self._chat(spec, model, conversation, call, asked)) as events,
        ):
            async for index, event in events:
                made = replies.agent_event_to_wire(event, REQUEST_ID.get(), model.name, spec.response, index)
                if isinstance(event.event, Started):
                    made.started.run_id = run_id
                    made.started.session_id = conversation.id if conversation else ""
                yield made

    async def _chat(
        self,
        spec: wire.ChatSpec,
        model: AnyText,
        conversation: Conversation | None,
        call: CallContext,
        asked: McpContext | None,
    ) -> AsyncGenerator[tuple[int, AgentEvent]]:
        """One turn of the model or, with the server's tools, as many as it takes; Abort ends it with a Finished too.

        Each event comes with the index of its answer. `asked` is what the caller can answer meanwhile, if anything.
        """
        pipeline = serving.chat(model)
        if spec.HasField("parallel_tool_calls") and not spec.parallel_tool_calls:
            pipeline = FirstCall(pipeline)
        rounds, running = 1, set(range(requests.completions(spec)))
        with self._running.enter(REQUEST_ID.get(), call.principal.tenant, model) as generation:
            request = requests.chat_request(spec, generation.name, conversation)
            if spec.tool_execution == wire.TOOL_EXECUTION_SERVER:
                host, options = self._agents.host, requests.agent_options(spec, self._agents.defaults)
                reader = Reader(model.max_context, None if isinstance(model, RemoteModel) else serving.tokenize(model))
                stop = partial(model.abort, generation.name)
                loop = AgentLoop(pipeline, self._catalog, host, reader, stop)
                events = _first(loop.run(request, call.principal, options, call.deadline, asked, call.session))
            else:
                events = _one_round(several([pipeline.stream(nth(request, index)) for index in sorted(running)]))
            if conversation is not None:
                events = recorded(events, conversation, request, model.name)
            try:
                async with aclosing(events):
                    async for index, event in events:
                        rounds = event.round
                        if isinstance(event.event, Finished):
                            running.discard(index)
                        yield index, event
            except asyncio.CancelledError:
                if not generation.aborted:
                    raise
                generation.task.uncancel()
                for index in sorted(running):
                    yield index, AgentEvent(rounds, Finished(FinishReason.CANCELLED, Usage()))


def _latest_first(summary: Summary) -> str:
    """Sorts by it."""
    return f"{2**53 - int(summary.used * 1000):016}/{summary.id}"


async def _first(events: AsyncGenerator[AgentEvent]) -> AsyncGenerator[tuple[int, AgentEvent]]:
    """The only answer."""
    async with aclosing(events):
        async for event in events:
            yield 0, event


async def _one_round(events: AsyncGenerator[tuple[int, ChatEvent]]) -> AsyncGenerator[tuple[int, AgentEvent]]:
    """Turns as the only round."""
    async with aclosing(events):
        async for index, event in events:
            yield index, AgentEvent(1, event)
