"""How punctual the event loop is."""

import asyncio
from time import perf_counter

from prometheus_client import CollectorRegistry, Histogram

LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
PERIOD = 0.25


class LoopMetrics:
    """Asks the event loop to be woken, and counts by how much later that is than asked."""

    def __init__(self, target: CollectorRegistry) -> None:
        self._lag = Histogram(
            "narthex_event_loop_lag_seconds", "How much later than asked the event loop woke a task.", buckets=LAG,
            registry=target,
        )  # fmt: skip

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            due = perf_counter() + PERIOD
            await asyncio.sleep(PERIOD)
            self._lag.observe(max(perf_counter() - due, 0.0))
