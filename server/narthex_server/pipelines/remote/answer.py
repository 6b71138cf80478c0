"""One streamed answer of a remote engine, as a pipeline's events."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from narthex_server.engine.observer import RequestReport
from narthex_server.errors import ContextOverflow
from narthex_server.pipelines.call import Aborted, Call
from narthex_server.pipelines.events import ChatEvent, Finished, FinishReason, Started
from narthex_server.pipelines.remote.handle import RemoteHandle
from narthex_server.pipelines.remote.turn import Turn
from narthex_server.pipelines.request import ChatRequest, GenerateRequest

_COUNTED = {FinishReason.LENGTH: "length", FinishReason.CANCELLED: "cancelled"}


async def answer(
    handle: RemoteHandle, request: ChatRequest | GenerateRequest, path: str, body: dict[str, Any], turn: Turn
) -> AsyncGenerator[ChatEvent]:
    """Yields Started, what `turn` makes of the chunks, then one Finished; closing it hangs up.

    Errors: those of the engine, before the first event if it refuses the request; Unavailable where it breaks off.
    """
    watch, started = _Watch(request.request_id, handle), False
    try:
        async with handle.call(request.request_id, request.index) as call:
            watch.queue = watch.passed()
            with handle.exchange():
                chunks = await _accepted(handle, call, path, body, request.stopping.fit_context)
                async with aclosing(chunks):
                    yield Started(())
                    started = True
                    async for chunk in chunks:
                        for event in turn.feed(chunk):
                            watch.first_token = watch.first_token or watch.passed()
                            yield event
                rest = turn.finish(call.done)
        watch.end = rest[-1]
        for event in rest:
            yield event
    except Aborted:
        if not started:
            yield Started(())
        watch.end = Finished(FinishReason.CANCELLED, turn.usage)
        yield watch.end
    except GeneratorExit:
        watch.end = watch.end or Finished(FinishReason.CANCELLED, turn.usage)
        raise
    finally:
        handle.spend(turn.usage)
        watch.report(turn)


async def _accepted(
    handle: RemoteHandle, call: Call, path: str, body: dict[str, Any], fit_context: bool
) -> AsyncGenerator[Any]:
    """The chunks of a request that the engine has accepted; `max_tokens` that do not fit are left to it if allowed."""
    chunks = handle.chunks(call, path, body)
    try:
        await anext(chunks)
    except ContextOverflow:
        if not fit_context or "max_tokens" not in body:
            raise
        chunks = handle.chunks(call, path, {name: value for name, value in body.items() if name != "max_tokens"})
        await anext(chunks)
    return chunks


@dataclass(slots=True)
class _Watch:
    """The times of one answer."""

    request_id: str
    handle: RemoteHandle
    began: float = field(default_factory=time.monotonic)
    queue: float | None = None
    first_token: float | None = None
    end: ChatEvent | None = None

    def passed(self) -> float:
        return time.monotonic() - self.began

    def report(self, turn: Turn) -> None:
        reason = _COUNTED.get(self.end.reason, "stop") if isinstance(self.end, Finished) else "error"
        usage = turn.usage
        with self.handle.unharmed():
            self.handle.observer.on_generated(
                RequestReport(
                    self.request_id, reason, usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens,
                    self.queue, self.first_token, (), self.passed(),
                )
            )  # fmt: skip
