"""An engine whose requests wait for their turn."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.observer import EngineStats
from narthex_server.engine.request import EngineEvent, EngineRequest, Finished, FinishReason, Urgency, Usage
from narthex_server.lot.estimate import Estimate
from narthex_server.lot.permit import Permit
from narthex_server.lot.pool import Pool
from narthex_server.lot.terms import TERMS, Priority
from narthex_server.lot.units import Units
from narthex_server.pipelines.call import Aborted, Call

SLOTS, KV_TOKENS = "slots", "kv_tokens"


class AdmittedEngine:
    """Runs requests when the pool admits them; those that wait can be ended like those that run.

    A request costs a slot, and memory for its prompt and for an answer as long as answers of this model usually are.
    How urgent it is the running call's terms say.
    """

    def __init__(self, handle: EngineHandle, pool: Pool) -> None:
        self.pool = pool
        self._handle = handle
        self._answers = Estimate()
        self._waiting: set[Call] = set()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineEvent]:
        """As EngineHandle.generate. Errors: also those of Pool.admit; what cannot be run does not wait."""
        self._handle.check(request)
        came = time.monotonic()
        try:
            permit = await self._admitted(request)
        except Aborted:
            yield Finished(FinishReason.CANCELLED, Usage(len(request.prompt), 0))
            return

        def over(finished: Finished | None) -> None:
            if finished is not None:
                self._learn(permit, finished)
            permit.release()  # though nobody may have read the end yet

        with permit:
            async with aclosing(self._handle.generate(_urgent(request), came, over)) as events:
                async for event in events:
                    yield event

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """As EngineHandle.abort."""
        named = [call for call in self._waiting if call.request_id == request_id and index in (None, call.index)]
        for call in named:
            call.abort()
        return self._handle.abort(request_id, index) or bool(named)

    def snapshot(self) -> EngineStats:
        """The engine's, with those that wait for their turn."""
        stats = self._handle.snapshot()
        return replace(stats, waiting=stats.waiting + self.pool.waiting)

    async def _admitted(self, request: EngineRequest) -> Permit:
        call = Call(request.request_id, request.index)
        self._waiting.add(call)
        try:
            return await call.wait(self.pool.admit(_cost(request, self._answers.within(request.max_tokens))))
        finally:
            self._waiting.discard(call)

    def _learn(self, permit: Permit, finished: Finished) -> None:
        answer = finished.usage.completion_tokens
        self._answers.learn(answer, cut=finished.reason is not FinishReason.STOP)
        permit.correct({SLOTS: 1, KV_TOKENS: finished.usage.prompt_tokens + answer})


def capacity(handle: EngineHandle) -> Units:
    """What an engine has.

    With several slots one request more is admitted than runs: a slot that becomes free would be idle for a step of the
    others until the next request came, which for short answers is a tenth of the time. An engine with one slot begins
    what comes at once.
    """
    return {SLOTS: handle.slots + (handle.slots > 1), KV_TOKENS: handle.snapshot().kv_tokens_capacity}


def _cost(request: EngineRequest, answer: int) -> Units:
    return {SLOTS: 1, KV_TOKENS: len(request.prompt) + answer}


def _urgent(request: EngineRequest) -> EngineRequest:
    match TERMS.get().priority:
        case Priority.NORMAL:
            return request
        case Priority.LOW:
            return replace(request, urgency=Urgency.LOW)
        case _:
            return replace(request, urgency=Urgency.HIGH)
