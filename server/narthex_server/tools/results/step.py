"""Kept results instead of calls, and one call instead of several."""

from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import aclosing
from dataclasses import replace
from typing import Literal, Protocol

from narthex_server.errors import DeadlineExceeded
from narthex_server.tools.results.cache import ResultCache
from narthex_server.tools.results.changes import Changes
from narthex_server.tools.results.joint import JointRun, Parted
from narthex_server.tools.results.rule import CacheRule, Keeping
from narthex_server.tools.results.telling import digest
from narthex_server.tools.step import Invocation, Run
from narthex_server.tools.tool import CallContext, ToolEvent

Lookup = Literal["hit", "miss", "coalesced", "bypassed"]
"""What came of a call whose result may be kept: the last is one that cannot be compared with others."""


class Holder(Protocol):
    """What is asked of a server; as ToolServer."""

    @property
    def cache(self) -> CacheRule | None: ...

    def edition(self, context: CallContext) -> Hashable: ...


class CacheStep:
    """Answers a call with the result of the same call of before, or of the same one that is under way."""

    def __init__(
        self,
        keeping: Keeping,
        cache: ResultCache,
        server: Callable[[str], Holder | None],
        looked: Callable[[str, Lookup], None] = lambda server, lookup: None,
    ) -> None:
        """`server` finds one by its name; `looked` is told of every call whose result may be kept."""
        self._keeping = keeping
        self._cache = cache
        self._server = server
        self._looked = looked
        self._changes = Changes()
        self._runs: dict[Hashable, JointRun] = {}

    def around(self, call: Invocation, run: Run) -> AsyncGenerator[ToolEvent]:
        """What `run` does, or did; a call that has nothing to do with what is kept costs no generator more."""
        name = call.tool.server
        if not name or (server := self._server(name)) is None or (rule := server.cache) is None:
            return run(call)
        if not (ttl := self._keeping.ttl(call.tool, rule)):
            return self._changing(call, run, server) if self._keeping.changes(call.tool, rule) else run(call)
        if call.context.mcp.is_again or (told := digest(call)) is None:
            self._looked(name, "bypassed")
            return run(call)
        return self._once(call, run, server.edition(call.context), told, ttl)

    async def _changing(self, call: Invocation, run: Run, server: Holder) -> AsyncGenerator[ToolEvent]:
        edition = server.edition(call.context)
        try:
            async with aclosing(run(call)) as events:
                async for event in events:
                    yield event
        finally:  # one that failed or was cancelled may have done a part of its work
            self._changes.happened(edition)

    async def _once(
        self, call: Invocation, run: Run, edition: Hashable, told: bytes, ttl: float
    ) -> AsyncGenerator[ToolEvent]:
        key = (call.context.principal.tenant, edition, self._changes.epoch(edition), call.tool, told)
        if (result := self._cache.get(key)) is not None:
            self._looked(call.tool.server, "hit")
            call.trail.cached = True
            yield result
            return
        events: AsyncGenerator[ToolEvent]
        if (joint := self._runs.get(key)) is not None and joint.open:
            self._looked(call.tool.server, "coalesced")
            try:
                result = await joint.joined(call.context.deadline)
            except TimeoutError:
                raise _too_late(call) from None
            except Parted:
                events = run(call)
            else:
                call.trail.cached = True
                yield result
                return
        else:
            self._looked(call.tool.server, "miss")
            events = self._started(call, run, key, ttl)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _started(self, call: Invocation, run: Run, key: Hashable, ttl: float) -> AsyncGenerator[ToolEvent]:
        """Runs the call for all who join it; the time that this caller has is its own."""

        def over() -> None:
            if self._runs.get(key) is joint:
                del self._runs[key]

        timeless = replace(call, context=replace(call.context, deadline=None))
        joint = JointRun(run(timeless), lambda result: self._cache.put(key, result, ttl), over)
        self._runs[key] = joint
        try:
            async with aclosing(joint.first(call.context.deadline)) as events:
                async for event in events:
                    yield event
        except TimeoutError:
            raise _too_late(call) from None


def _too_late(call: Invocation) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"upstream {call.tool.server!r} did not answer within the call's time",
        reason="UPSTREAM_DEADLINE_EXCEEDED",
        metadata={"upstream": call.tool.server},
    )
