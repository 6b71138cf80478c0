"""How late event loops are, and that they need not wait for those who read metrics."""

import asyncio
import re
import sys
import threading
import time

from narthex_bridge.metrics import Metrics
from narthex_server.engine.observer import EngineStats
from narthex_server.metrics import loop
from narthex_server.metrics.embedding import EmbeddingMetrics
from narthex_server.metrics.engine import EngineMetrics
from narthex_server.metrics.loop import LoopMetrics
from narthex_server.metrics.registry import new_registry
from prometheus_client import generate_latest

LAG = "narthex_event_loop_lag_seconds"


async def blocked(watch):
    """Runs what watches the loop while that is blocked for a tenth of a second longer than until it is to be woken."""
    task = asyncio.create_task(watch)
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(time.sleep, loop.PERIOD + 0.1)
    await asyncio.sleep(loop.PERIOD)  # due after the watch
    task.cancel()


async def test_a_blocked_event_loop_of_the_server_is_noted():
    registry = new_registry()
    await blocked(LoopMetrics(registry).run())
    assert registry.get_sample_value(f"{LAG}_sum") > 0.09


async def test_a_blocked_event_loop_of_the_bridge_is_noted():
    metrics = Metrics()
    await blocked(metrics.watch_loop())
    [total] = re.findall(r"^narthex_bridge_event_loop_lag_seconds_sum (\S+)$", metrics.render().decode(), re.MULTILINE)
    assert float(total) > 0.09


def test_models_come_and_go_while_their_metrics_are_read():
    registry, stats = new_registry(), EngineStats(4)
    engines, embedders = EngineMetrics(registry), EmbeddingMetrics(registry)
    for number in range(50):
        engines.watch(f"kept-{number}", lambda: stats)
        embedders.watch(f"kept-{number}", lambda: 0)
    over = threading.Event()

    def come_and_go():
        while not over.is_set():
            engines.watch("guest", lambda: stats)
            embedders.watch("guest", lambda: 0)
            engines.unwatch("guest")
            embedders.unwatch("guest")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        for _ in range(10):
            generate_latest(registry)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(before)
