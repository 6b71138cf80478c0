import asyncio
import logging
from collections.abc import Callable

import numpy as np
import pytest
from narthex_server.embedding.head import Pooling
from narthex_server.errors import InternalError, ResourceExhausted, Unavailable

PATIENCE = 20


def text(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int64)


async def in_batch(encoder) -> None:
    """Waits until the encoder is at work."""
    assert await asyncio.to_thread(encoder.entered.wait, PATIENCE)
    encoder.entered.clear()


async def until(condition: Callable[[], bool]) -> None:
    """Lets other tasks run until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (what it waits for tells nobody)
            await asyncio.sleep(0)


async def test_vectors_come_in_the_order_of_the_texts(started):
    async with started() as handle:
        vectors = await handle.embed([text(1, 2, 3), text(9), text(4, 4)])
    assert vectors.tolist() == [[2, 1], [9, 0], [4, 0.5]]


async def test_a_call_may_pool_otherwise(started):
    async with started() as handle:
        first = await handle.embed([text(1, 2, 3)], Pooling.FIRST)
        last = await handle.embed([text(1, 2, 3)], Pooling.LAST)
    assert (first.tolist(), last.tolist()) == ([[1, 0]], [[3, 2]])


async def test_concurrent_requests_share_batches_and_get_their_own_vectors(started, encoder):
    async with started() as handle:
        encoder.gate.clear()
        calls = [asyncio.create_task(handle.embed([text(9)]))]
        await in_batch(encoder)
        calls += [asyncio.create_task(handle.embed([text(i, i), text(i)])) for i in range(4)]
        await until(lambda: handle.requests() == 5)
        encoder.gate.set()
        found = await asyncio.gather(*calls)
    assert [vectors.tolist() for vectors in found[1:]] == [[[i, 0.5], [i, 0]] for i in range(4)]
    assert len(encoder.batches) == 2


async def test_a_cancelled_call_stops_before_its_next_batch(started, encoder):
    async with started() as handle:
        encoder.gate.clear()
        call = asyncio.create_task(handle.embed([text(*[1] * length) for length in (30, 20, 10)]))
        await in_batch(encoder)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        encoder.gate.set()
        assert (await handle.embed([text(5)])).tolist() == [[5, 0]]
    assert encoder.batches == [[30], [1]]


async def test_a_failed_batch_ends_its_requests_and_no_others(started):
    async with started() as handle:
        with pytest.raises(InternalError, match="error id"):
            await handle.embed([text(666), text(1, 1, 1, 1, 1, 1, 1, 1)])
        assert (await handle.embed([text(7)])).tolist() == [[7, 0]]


async def test_more_requests_than_may_wait_are_refused(started, encoder):
    async with started(max_waiting=1) as handle:
        encoder.gate.clear()
        call = asyncio.create_task(handle.embed([text(1)]))
        await in_batch(encoder)
        with pytest.raises(ResourceExhausted) as caught:
            await handle.embed([text(2)])
        assert caught.value.reason == "QUEUE_FULL"
        encoder.gate.set()
        await call
        await handle.embed([text(2)])


async def test_stopping_waits_for_running_requests_then_refuses(started, encoder):
    async with started() as handle:
        encoder.gate.clear()
        call = asyncio.create_task(handle.embed([text(3)]))
        await in_batch(encoder)
        stopping = asyncio.create_task(handle.stop(PATIENCE))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="shutting down"):
            await handle.embed([text(4)])
        encoder.gate.set()
        assert (await call).tolist() == [[3, 0]]
        await stopping
        assert encoder.closed


async def test_what_does_not_end_within_the_grace_is_cut_off(started, encoder, caplog):
    caplog.set_level(logging.INFO)
    async with started() as handle:
        encoder.gate.clear()
        call = asyncio.create_task(handle.embed([text(3), text(3, 3, 3, 3, 3, 3)]))
        await in_batch(encoder)
        stopping = asyncio.create_task(handle.stop(0))
        await until(lambda: "1 requests still running" in caplog.text)
        encoder.gate.set()
        await stopping
        with pytest.raises(Unavailable):
            await call


class Seen:
    def __init__(self) -> None:
        self.batches, self.finished = [], []

    def on_batch(self, report) -> None:
        self.batches.append((report.texts, report.tokens, report.padding))

    def on_finished(self, outcome: str, seconds: float) -> None:
        self.finished.append(outcome)


async def test_the_observer_hears_of_batches_and_ends(started, encoder):
    seen = Seen()
    async with started(observer=seen) as handle:
        await handle.embed([text(1, 1, 1), text(2, 2)])
        with pytest.raises(InternalError):
            await handle.embed([text(666)])
        encoder.gate.clear()
        call = asyncio.create_task(handle.embed([text(3)]))
        await until(lambda: handle.requests() == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        encoder.gate.set()
    assert seen.finished == ["ok", "error", "cancelled"]
    assert seen.batches[0] == (2, 5, 1)


async def test_an_observer_that_raises_does_no_harm(started, encoder, caplog):
    class Broken:
        def on_batch(self, report) -> None:
            raise RuntimeError("broken observer")

        def on_finished(self, outcome: str, seconds: float) -> None:
            raise RuntimeError("broken observer")

    async with started(observer=Broken()) as handle, asyncio.timeout(PATIENCE):
        assert (await handle.embed([text(5)])).tolist() == [[5, 0]]
        assert handle.requests() == 0
    assert caplog.text.count("the embedder's observer failed") == 2
