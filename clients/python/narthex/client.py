"""The async client."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

import grpc
from grpc import aio

from narthex.errors import NarthexError
from narthex.v1 import embedding_pb2 as embedding
from narthex.v1 import generation_pb2 as generation
from narthex.v1 import lot_pb2 as lot
from narthex.v1 import model_pb2 as models
from narthex.v1 import tool_pb2 as tools
from narthex.v1 import upstream_pb2 as upstreams
from narthex.v1.common_pb2 import CallOptions
from narthex.v1.embedding_pb2_grpc import EmbeddingServiceStub
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.model_pb2_grpc import ModelServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")

OnInput = Callable[[tools.InputRequest], Awaitable[Mapping[str, object]]]
"""Answers what a tool asks its caller for: the result that MCP defines for the request's `mcp.method`."""

EVERYTHING = b'{"sampling":{"tools":{}},"elicitation":{"form":{},"url":{}},"roots":{}}'
"""MCP's capabilities of a client that answers whatever it is asked."""

MAX_ROUNDS = 16
"""How often a call is made again because it ended with a wish for input."""

MAX_MESSAGE_BYTES = 64 << 20
"""Largest answer that is taken; gRPC's own limit of 4 MiB is too small for pictures and large tool results."""


class Client:
    """A connection to a narthex server, for one event loop.

    `target` is `host:port` or any other gRPC target; `credentials` makes it a TLS connection. `api_key` goes with every
    call. `timeout`, in seconds, is for whole calls, streams included; None sets no limit. A failed call raises
    NarthexError. Leaving a stream early cancels its work on the server: close it (`contextlib.aclosing`) to have that
    happen at once.

        async with narthex.Client("127.0.0.1:50051") as client:
            async for event in client.chat_stream(ChatSpec(messages=[user("What time is it in Rome?")])):
                print(event.text_delta.text, end="")
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float | None = None,
    ) -> None:
        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        self._channel = (
            aio.secure_channel(target, credentials, options) if credentials else aio.insecure_channel(target, options)
        )
        self._metadata = aio.Metadata(*([("authorization", f"Bearer {api_key}")] if api_key else []))
        self._timeout = timeout
        self._embedding = EmbeddingServiceStub(self._channel)
        self._generation = GenerationServiceStub(self._channel)
        self._lot = LotServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._tools = ToolServiceStub(self._channel)
        self._upstreams = UpstreamServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that still run are cancelled."""
        await self._channel.close()

    async def generate(
        self, spec: generation.GenerationSpec, options: CallOptions | None = None
    ) -> generation.GenerateResponse:
        """Continue a prompt; the whole completion."""
        return await self._unary(self._generation.Generate, generation.GenerateRequest(spec=spec, options=options))

    def generate_stream(
        self, spec: generation.GenerationSpec, options: CallOptions | None = None
    ) -> AsyncIterator[generation.GenerateStreamResponse]:
        """Continue a prompt; events as they come: `started`, `text_delta`s, `finished`."""
        request = generation.GenerateStreamRequest(spec=spec, options=options)
        return self._stream(self._generation.GenerateStream, request)

    async def chat(self, spec: generation.ChatSpec, options: CallOptions | None = None) -> generation.ChatResponse:
        """The next turns of a conversation, when all are done."""
        return await self._unary(self._generation.Chat, generation.ChatRequest(spec=spec, options=options))

    def chat_stream(
        self,
        spec: generation.ChatSpec,
        options: CallOptions | None = None,
        mcp: tools.McpContext | None = None,
        resumable: bool = False,
    ) -> AsyncIterator[generation.ChatStreamResponse]:
        """The next turns of a conversation; events as they come, the last one is `finished`.

        With `mcp` the run may ask (`tool_activity.input_required`): answer with `approve` or `respond`. A `resumable`
        run goes on when this is left, and `resume_chat` joins it again.
        """
        request = generation.ChatStreamRequest(spec=spec, options=options, mcp=mcp, resumable=resumable)
        return self._stream(self._generation.ChatStream, request)

    async def resume_chat(self, run_id: str, after_sequence: int = 0) -> AsyncIterator[generation.ChatStreamResponse]:
        """The events of a resumable run after that one, each once, and then those to come."""
        request = generation.ResumeChatRequest(run_id=run_id, after_sequence=after_sequence)
        async for response in self._stream(self._generation.ResumeChat, request):
            yield response.event

    async def approve(self, wish: tools.InputRequired, approved: bool = True, reason: str = "") -> int:
        """Answer all requests for approval of a waiting call alike; how many others it still waits for.

        The model reads the reason of a refusal.
        """
        asked = [request.id for request in wish.requests if request.HasField("approval")]
        responses = [tools.InputResponse(id=name, approved=approved, reason=reason) for name in asked]
        request = tools.RespondRequest(call_id=wish.call_id, responses=responses)
        return (await self._unary(self._tools.Respond, request)).waiting

    async def list_sessions(self) -> list[generation.Session]:
        """The conversations that the server keeps for this caller, the latest first."""
        found: list[generation.Session] = []
        request = generation.ListSessionsRequest()
        while True:
            page = await self._unary(self._generation.ListSessions, request)
            found += page.sessions
            if not page.next_page_token:
                return found
            request = generation.ListSessionsRequest(page_token=page.next_page_token)

    async def get_session(self, session_id: str) -> generation.GetSessionResponse:
        """One of them, with its messages."""
        return await self._unary(self._generation.GetSession, generation.GetSessionRequest(id=session_id))

    async def delete_session(self, session_id: str) -> None:
        """Forget one of them."""
        await self._unary(self._generation.DeleteSession, generation.DeleteSessionRequest(id=session_id))

    async def embed(self, spec: embedding.EmbedSpec, options: CallOptions | None = None) -> embedding.EmbedResponse:
        """The vectors of texts, one for each input and in their order."""
        return await self._unary(self._embedding.Embed, embedding.EmbedRequest(spec=spec, options=options))

    async def list_models(self) -> list[models.Model]:
        """All models that the server serves."""
        return list((await self._unary(self._models.ListModels, models.ListModelsRequest())).models)

    def load_model_stream(
        self, name: str, path: str, *, compute: str = "", max_context: int = 0, max_slots: int = 0
    ) -> AsyncIterator[models.LoadModelResponse]:
        """Load a model; how far it is as it goes, the last event is `model`. Leaving it early gives the load up.

        `path` is below the server's folder of models; what is empty or 0 is the server's default.
        """
        request = models.LoadModelRequest(
            name=name, path=path, compute=compute, max_context=max_context, max_slots=max_slots
        )
        return self._stream(self._models.LoadModel, request)

    async def load_model(
        self, name: str, path: str, *, compute: str = "", max_context: int = 0, max_slots: int = 0
    ) -> models.Model:
        """Load a model, as `load_model_stream` does; the model when it is ready."""
        model = None
        events = self.load_model_stream(name, path, compute=compute, max_context=max_context, max_slots=max_slots)
        async for event in events:
            if event.HasField("model"):
                model = event.model
        if model is None:
            raise NarthexError(grpc.StatusCode.INTERNAL, "NO_MODEL", f"the loading of {name} ended without a model")
        return model

    async def unload_model(self, name: str) -> None:
        """Unload a model, once its running requests have ended."""
        await self._unary(self._models.UnloadModel, models.UnloadModelRequest(name=name))

    async def list_adapters(self, model: str = "") -> list[models.Adapter]:
        """The adapters of a model, or of all."""
        return list((await self._unary(self._models.ListAdapters, models.ListAdaptersRequest(model=model))).adapters)

    async def load_adapter(self, name: str, path: str, model: str = "") -> models.Adapter:
        """Add an adapter to a running model; `path` is below the server's folder of adapters."""
        request = models.LoadAdapterRequest(model=model, name=name, path=path)
        return (await self._unary(self._models.LoadAdapter, request)).adapter

    async def unload_adapter(self, name: str, model: str = "") -> None:
        """Remove an adapter, once the requests that use it have ended."""
        await self._unary(self._models.UnloadAdapter, models.UnloadAdapterRequest(model=model, name=name))

    async def list_upstreams(self) -> list[upstreams.Upstream]:
        """The MCP servers whose tools are forwarded, healthy or not."""
        found = await self._unary(self._upstreams.ListUpstreams, upstreams.ListUpstreamsRequest())
        return list(found.upstreams)

    async def add_upstream(self, spec: upstreams.UpstreamSpec) -> upstreams.Upstream:
        """Add one until the server ends; as it is after the first attempt to connect."""
        return (await self._unary(self._upstreams.AddUpstream, upstreams.AddUpstreamRequest(spec=spec))).upstream

    async def remove_upstream(self, name: str) -> None:
        """Remove one, once its running calls have ended."""
        await self._unary(self._upstreams.RemoveUpstream, upstreams.RemoveUpstreamRequest(name=name))

    async def reconnect_upstream(self, name: str) -> upstreams.Upstream:
        """Connect one anew; as it is afterwards."""
        request = upstreams.ReconnectUpstreamRequest(name=name)
        return (await self._unary(self._upstreams.ReconnectUpstream, request)).upstream

    async def list_pools(self) -> list[lot.Pool]:
        """What work shares and waits for."""
        return list((await self._unary(self._lot.ListPools, lot.ListPoolsRequest())).pools)

    async def resize_pool(self, pool: str, capacity: Mapping[str, int]) -> lot.Pool:
        """Change how much there is of the named resources, until the server ends; as the pool is afterwards."""
        request = lot.ResizePoolRequest(pool=pool, capacity=capacity)
        return (await self._unary(self._lot.ResizePool, request)).pool

    async def drain_pool(self, pool: str = "", *, resume: bool = False) -> list[lot.Pool]:
        """Have a pool, or all, admit nothing more, or admit again; as they are afterwards."""
        return list((await self._unary(self._lot.DrainPool, lot.DrainPoolRequest(pool=pool, resume=resume))).pools)

    async def list_tickets(self, states: Collection[lot.TicketState.ValueType] = ()) -> list[lot.Ticket]:
        """The tenant's tickets in one of the states, or in any, the newest first."""
        found: list[lot.Ticket] = []
        token = ""
        while True:
            page = await self._unary(self._lot.ListTickets, lot.ListTicketsRequest(page_token=token, states=states))
            found += page.tickets
            if not (token := page.next_page_token):
                return found

    async def get_ticket(self, ticket_id: str) -> lot.Ticket:
        """How a ticket is."""
        return (await self._unary(self._lot.GetTicket, lot.GetTicketRequest(ticket_id=ticket_id))).ticket

    async def cancel_ticket(self, ticket_id: str) -> lot.Ticket:
        """End a ticket's work, or throw its result away; as it was then."""
        return (await self._unary(self._lot.Cancel, lot.CancelRequest(ticket_id=ticket_id))).ticket

    async def list_tools(self) -> list[tools.Tool]:
        """All tools that may be called, native and forwarded."""
        found: list[tools.Tool] = []
        request = tools.ListToolsRequest()
        while True:
            page = await self._unary(self._tools.ListTools, request)
            found += page.tools
            if not page.next_page_token:
                return found
            request = tools.ListToolsRequest(page_token=page.next_page_token)

    def call_tool_stream(
        self,
        name: str,
        arguments: Mapping[str, object] | bytes = b"",
        options: CallOptions | None = None,
        mcp: tools.McpContext | None = None,
    ) -> AsyncIterator[tools.CallToolResponse]:
        """Call a tool; events as they come, the last one is `result`. `arguments` is a JSON object, as text or not.

        With client capabilities in `mcp` the tool may ask: `input_required` without a state waits for `respond`, with
        one it is the last event, and the call is to be made again.
        """
        request = tools.CallToolRequest(name=name, arguments=_json(arguments), options=options, mcp=mcp)
        return self._stream(self._tools.CallTool, request)

    async def respond(self, call_id: str, answers: Mapping[str, Mapping[str, object]]) -> int:
        """Answer requests of a waiting call, by their ids; how many it still waits for."""
        responses = [tools.InputResponse(id=name, result=_json(answer)) for name, answer in answers.items()]
        request = tools.RespondRequest(call_id=call_id, responses=responses)
        return (await self._unary(self._tools.Respond, request)).waiting

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, object] | bytes = b"",
        options: CallOptions | None = None,
        on_input: OnInput | None = None,
        capabilities: Mapping[str, object] | bytes = EVERYTHING,
    ) -> tools.ToolResult:
        """Call a tool; its result. That the tool itself failed is no exception but `result.is_error`.

        A tool may ask for what `capabilities` (MCP's) name where `on_input` answers it; without, it may not ask.
        """
        mcp = tools.McpContext(client_capabilities=_json(capabilities)) if on_input else None
        for _ in range(MAX_ROUNDS):
            again: tools.McpContext | None = None
            result = None
            async for event in self.call_tool_stream(name, arguments, options, mcp):
                if event.HasField("result"):
                    result = event.result
                elif event.HasField("input_required") and on_input and mcp:
                    again = await self._answer(event.input_required, on_input, mcp)
            if result is not None:
                return result
            if again is None:
                break
            mcp = again
        raise _no_result(name)

    async def call_tools(
        self,
        calls: Iterable[tuple[str, Mapping[str, object] | bytes]],
        options: CallOptions | None = None,
    ) -> list[tools.ToolResult | NarthexError]:
        """Call 1 to 128 tools at once, each by its name and arguments; in the same order what came of each.

        A call that fails is in the list as its NarthexError and leaves the others alone; that a tool itself failed is
        `is_error` of its result. Raises NarthexError where the batch as a whole fails.
        """
        invocations = [tools.ToolInvocation(name=name, arguments=_json(arguments)) for name, arguments in calls]
        ends: dict[int, tools.ToolResult | NarthexError] = {}
        async for event in self.call_tools_stream(invocations, options):
            if event.HasField("failure"):
                ends[event.index] = NarthexError.from_failure(event.failure)
            elif event.event.HasField("result"):
                ends[event.index] = event.event.result
        return [ends.get(index) or _no_result(call.name) for index, call in enumerate(invocations)]

    def call_tools_stream(
        self, calls: Iterable[tools.ToolInvocation], options: CallOptions | None = None
    ) -> AsyncIterator[tools.CallToolsResponse]:
        """Call several tools at once; events as they come, each with the `index` of its call."""
        return self._stream(self._tools.CallTools, tools.CallToolsRequest(calls=calls, options=options))

    async def _answer(
        self, wish: tools.InputRequired, on_input: OnInput, mcp: tools.McpContext
    ) -> tools.McpContext | None:
        """Answers a call that waits; for one that is over, gives what it is to be made again with."""
        answers = {request.id: await on_input(request) for request in wish.requests}
        if wish.HasField("request_state"):
            return tools.McpContext(
                client_capabilities=mcp.client_capabilities,
                input_responses=_json(answers),
                request_state=wish.request_state,
            )
        try:
            await self.respond(wish.call_id, answers)
        except NarthexError as error:
            if error.code not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                raise  # those two: the tool has given up waiting meanwhile, and its stream says what came of it
        return None

    async def _unary(self, method: aio.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        with _narthex_errors():
            return await method(request, timeout=self._timeout, metadata=self._metadata)

    async def _stream(
        self, method: aio.UnaryStreamMultiCallable[Request, Response], request: Request
    ) -> AsyncIterator[Response]:
        call = method(request, timeout=self._timeout, metadata=self._metadata)
        try:
            with _narthex_errors():
                async for response in call:
                    yield response
        finally:
            call.cancel()


def _no_result(tool: str) -> NarthexError:
    return NarthexError(grpc.StatusCode.INTERNAL, "NO_RESULT", f"the call of {tool} ended without a result")


def _json(value: Mapping[str, object] | bytes) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@contextmanager
def _narthex_errors() -> Iterator[None]:
    try:
        yield
    except aio.AioRpcError as error:
        raise NarthexError.from_rpc(error) from error
