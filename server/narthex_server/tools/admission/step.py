"""The turn of every call of a forwarded tool."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from narthex_server.lot.pool import Pool
from narthex_server.lot.terms import TERMS
from narthex_server.tools.admission.pools import CALLS, MEMORY, UpstreamPools
from narthex_server.tools.step import Invocation, Run
from narthex_server.tools.tool import ToolEvent


class AdmissionStep:
    """Has a call wait until its upstream has room for it, and for its arguments in memory."""

    def __init__(self, pools: UpstreamPools) -> None:
        self._pools = pools

    def around(self, call: Invocation, run: Run) -> AsyncGenerator[ToolEvent]:
        """What `run` does; errors: also those of Pool.admit. Tools of our own wait, if at all, for their models."""
        pool = self._pools.get(call.tool.server) if call.tool.server else None
        return run(call) if pool is None else self._admitted(call, run, pool)

    async def _admitted(self, call: Invocation, run: Run, pool: Pool) -> AsyncGenerator[ToolEvent]:
        context = call.context
        terms = replace(TERMS.get(), deadline=context.deadline)  # which is none where others wait for it as well
        cost = {CALLS: 1, MEMORY: len(call.raw)}
        with await pool.admit(cost, terms, context.principal.tenant) as permit:
            called = replace(call, context=replace(context, over=permit.release))
            async with aclosing(run(called)) as events:
                async for event in events:
                    yield event
