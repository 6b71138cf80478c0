"""Requests that run on the server and may want something of the client before they end."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace

import orjson
from orjson import Fragment

from narthex_bridge.mcp.held_calls import HeldCall, HeldCalls
from narthex_bridge.protocol import jsonrpc, results
from narthex_bridge.protocol.call import ToolCall
from narthex_bridge.protocol.effects import CallTool, GetPrompt, ReadResource
from narthex_bridge.protocol.events import InputRequired, Result, TextDelta, ToolEvent
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.protocol.jsonrpc import Answer, Request
from narthex_bridge.protocol.params import invalid
from narthex_bridge.protocol.seal import Seal
from narthex_bridge.server.backend import Backend, Wishes
from narthex_bridge.sessions.responder import Responder
from narthex_bridge.sessions.session import Session

MAX_ROUNDS = 16
_UPSTREAM, _HELD = b"u", b"h"
_NO_LONGER_WAITING = frozenset({"CALL_NOT_FOUND", "NOT_WAITING"})

Repeatable = CallTool | ReadResource | GetPrompt


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, and where what it tells goes."""

    request: Request
    session: Session
    request_id: str
    responder: Responder


class Calls:
    """Calls tools, reads resources, fills in prompts.

    What is wanted of a client with a session is asked on its stream, while the call goes on. A client of a stateless
    version gets it as the result, and comes back with the answers and a sealed state: the upstream's own, and the call
    is made again, or the name of a call that was held, and that goes on.
    """

    def __init__(self, backend: Backend, seal: Seal, held: HeldCalls) -> None:
        self._backend = backend
        self._seal = seal
        self._held = held

    async def tool(self, effect: CallTool, origin: Origin) -> bytes:
        """The response to tools/call. Raises BackendError and RpcError."""
        started, session = time.perf_counter(), origin.session
        call = ToolCall(origin.request.id, session.era, effect.token, session.log_level)
        run = self._stateless if session.era.stateless else self._conversing
        try:
            return await run(call, effect, origin)
        except BackendError as failure:
            if (response := call.recover(failure)) is not None:
                return response
            raise
        finally:
            origin.responder.called(time.perf_counter() - started)

    async def resource(self, effect: ReadResource, origin: Origin) -> bytes:
        """The response to resources/read. Raises BackendError and RpcError."""

        async def read(wishes: Wishes) -> InputRequired | results.Members:
            found = await self._backend.read_resource(origin.session.speaker, origin.request_id, effect, wishes)
            return found if isinstance(found, InputRequired) else results.read(origin.session.era, found)

        return await self._unary(effect, origin, read)

    async def prompt(self, effect: GetPrompt, origin: Origin) -> bytes:
        """The response to prompts/get. Raises BackendError and RpcError."""

        async def get(wishes: Wishes) -> InputRequired | results.Members:
            found = await self._backend.get_prompt(origin.session.speaker, origin.request_id, effect, wishes)
            return found if isinstance(found, InputRequired) else results.prompted(origin.session.era, found)

        return await self._unary(effect, origin, get)

    async def _conversing(self, call: ToolCall, effect: CallTool, origin: Origin) -> bytes:
        wishes = _wishes(origin)
        for _ in range(MAX_ROUNDS):
            async with aclosing(self._start(effect, origin, wishes)) as events:
                end = await self._told(call, events, origin)
            if isinstance(end, Result):
                return call.result(end)
            answers = await self._answers(end, origin)
            if refused := _refusals(answers):
                return call.failed(refused)
            wishes = replace(wishes, responses=_joined(answers), state=end.state or b"")
        raise _too_many_rounds()

    async def _told(
        self, call: ToolCall, events: AsyncGenerator[ToolEvent, None], origin: Origin
    ) -> Result | InputRequired:
        """The event that ends a call. Before it the client is told all others, and asked what is wanted meanwhile; a
        call may end without the answers."""
        questions: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                async for event in events:
                    match event:
                        case Result() | InputRequired(state=bytes()):
                            await _catch_up(call, origin.responder)
                            for question in questions:
                                question.cancel()
                            return event
                        case InputRequired():
                            await _catch_up(call, origin.responder)
                            questions.append(group.create_task(self._ask(event, origin)))
                        case _:
                            await _tell(call, event, origin.responder)
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        raise AssertionError("a call's events end with a result, with what it wants, or with a failure")

    async def _ask(self, wanted: InputRequired, origin: Origin) -> None:
        """Brings the client's answers to a call that waits for them."""
        answers = await self._answers(wanted, origin)
        try:
            await self._backend.respond(origin.session.speaker, origin.request_id, wanted.call_id, answers)
        except BackendError as failure:
            if failure.reason not in _NO_LONGER_WAITING:
                raise

    async def _answers(self, wanted: InputRequired, origin: Origin) -> list[tuple[str, Answer]]:
        """What the client says. Raises BackendError where it says nothing in time."""
        patience = self._held.patience_s
        try:
            async with asyncio.timeout(patience):
                return await origin.session.asks.ask(wanted.requests, origin.responder)
        except TimeoutError:
            text = f"The client did not give the input that was wanted within {patience:g} s."
            raise BackendError("DEADLINE_EXCEEDED", text, reason="INPUT_TIMEOUT") from None

    async def _stateless(self, call: ToolCall, effect: CallTool, origin: Origin) -> bytes:
        kind, state = self._opened(effect, origin)
        if kind == _HELD:
            held = self._held.take(state.decode())
            if held is None:
                raise invalid('"requestState" names a call that is over; make the call again without it.')
            events = held.events
        else:
            held = None
            events = self._start(effect, origin, _wishes(origin, effect.retry.responses, state))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(events.aclose)
            if held is not None and (missing := await self._answer(held, effect, origin)) is not None:
                return self._hold(events, missing, effect, origin, stack)
            async for event in events:
                match event:
                    case Result():
                        await _catch_up(call, origin.responder)
                        return call.result(event)
                    case InputRequired(state=None):
                        return self._hold(events, event, effect, origin, stack)
                    case InputRequired(state=bytes(state)):
                        return self._wanting(event, _UPSTREAM + state, effect, origin)
                    case _:
                        await _tell(call, event, origin.responder)
        raise AssertionError("a call's events end with a result, with what it wants, or with a failure")

    async def _unary(
        self, effect: Repeatable, origin: Origin, ask: Callable[[Wishes], Awaitable[InputRequired | results.Members]]
    ) -> bytes:
        session = origin.session
        _, state = self._opened(effect, origin)
        wishes = _wishes(origin, effect.retry.responses, state)
        for _ in range(MAX_ROUNDS):
            found = await ask(wishes)
            if not isinstance(found, InputRequired):
                return jsonrpc.result(origin.request.id, found)
            state = found.state or b""
            if session.era.stateless:
                return self._wanting(found, _UPSTREAM + state, effect, origin)
            answers = await self._answers(found, origin)
            if refused := _refusals(answers):
                raise BackendError("FAILED_PRECONDITION", refused, reason="INPUT_REFUSED")
            wishes = replace(wishes, responses=_joined(answers), state=state)
        raise _too_many_rounds()

    def _start(self, effect: CallTool, origin: Origin, wishes: Wishes) -> AsyncGenerator[ToolEvent, None]:
        return self._backend.call_tool(origin.session.speaker, origin.request_id, effect, wishes)

    async def _answer(self, held: HeldCall, effect: CallTool, origin: Origin) -> InputRequired | None:
        """Gives a held call what the client brought; returns what is still missing."""
        brought = orjson.loads(effect.retry.responses or b"{}")
        fitting = [each for each in held.wanted.requests if each.id in brought]
        if fitting:
            answers = [(each.id, Answer(each.id, result=orjson.dumps(brought[each.id]))) for each in fitting]
            await self._backend.respond(origin.session.speaker, origin.request_id, held.wanted.call_id, answers)
        missing = tuple(each for each in held.wanted.requests if each.id not in brought)
        return replace(held.wanted, requests=missing) if missing else None

    def _hold(
        self,
        events: AsyncGenerator[ToolEvent, None],
        wanted: InputRequired,
        effect: CallTool,
        origin: Origin,
        stack: AsyncExitStack,
    ) -> bytes:
        name = self._held.put(HeldCall(events, wanted))
        stack.pop_all()  # the events go on when the client comes back
        return self._wanting(wanted, _HELD + name.encode(), effect, origin)

    def _wanting(self, wanted: InputRequired, state: bytes, effect: Repeatable, origin: Origin) -> bytes:
        sealed = self._seal.close(_purpose(effect, origin), state, self._held.patience_s)
        return jsonrpc.result(origin.request.id, results.input_required(wanted, sealed))

    def _opened(self, effect: Repeatable, origin: Origin) -> tuple[bytes, bytes]:
        """The kind of state that a request brings and the state itself. Raises RpcError for one that is not ours."""
        if effect.retry.state is None:
            return _UPSTREAM, b""
        if (content := self._seal.open(_purpose(effect, origin), effect.retry.state)) is None:
            raise invalid('"requestState" was not given for this request, was changed, or is too old.')
        return content[:1], content[1:]


async def _tell(call: ToolCall, event: ToolEvent, responder: Responder) -> None:
    if not isinstance(event, TextDelta):  # nothing overtakes text that was held back
        await _catch_up(call, responder)
    if (message := call.notify(event, lagging=responder.lagging)) is not None:
        await responder.notify(message)


async def _catch_up(call: ToolCall, responder: Responder) -> None:
    if (message := call.rest()) is not None:
        await responder.notify(message)


def _wishes(origin: Origin, responses: bytes = b"", state: bytes = b"") -> Wishes:
    session = origin.session
    able = session.era.stateless or origin.responder.converses
    return Wishes(session.capabilities if able else b"", session.log_level, responses, state)


def _purpose(effect: Repeatable, origin: Origin) -> str:
    match effect:
        case CallTool(name, arguments):
            what = f"tool {name} {hashlib.sha256(_canonical(arguments)).hexdigest()}"
        case GetPrompt(name, values):
            what = f"prompt {name} {hashlib.sha256(_canonical(orjson.dumps(values))).hexdigest()}"
        case ReadResource(uri):
            what = f"resource {uri}"
    return f"state {origin.session.caller.assertion} {what}"


def _canonical(arguments: bytes) -> bytes:
    return orjson.dumps(orjson.loads(arguments), option=orjson.OPT_SORT_KEYS)


def _joined(answers: Iterable[tuple[str, Answer]]) -> bytes:
    return orjson.dumps({id: Fragment(answer.result) for id, answer in answers})


def _refusals(answers: Iterable[tuple[str, Answer]]) -> str:
    """What the client's errors say, as one text; empty where it answered all."""
    errors = [orjson.loads(answer.error).get("message") for _, answer in answers if answer.error]
    return "; ".join(f"The client refused to give the input: {str(error)[:500]}" for error in errors)


def _too_many_rounds() -> BackendError:
    return BackendError(
        "ABORTED", f"The upstream wanted input {MAX_ROUNDS} times and never ended.", reason="TOO_MANY_ROUNDS"
    )
