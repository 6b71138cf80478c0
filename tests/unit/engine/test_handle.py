import asyncio
import pickle
import threading
from contextlib import aclosing

import numpy as np
import pytest
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.messages import Batch, Ended, Submit
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Finished, FinishReason, Sampling, Tokens
from narthex_server.errors import ContextOverflow, InternalError, InvalidRequest, ResourceExhausted, Unavailable

GREEDY = Sampling(temperature=0)


def request(name, prompt, count=10, **fields):
    return EngineRequest(name, tuple(prompt), count, **{"sampling": GREEDY, **fields})


class Gate:
    """Holds the decoder back in one of its calls until it is opened."""

    def __init__(self, call="decode"):
        self.call, self.entered, self.opened = call, threading.Event(), threading.Event()

    def __call__(self, call, tokens):
        if call == self.call:
            self.entered.set()
            assert self.opened.wait(5)

    async def reached(self):
        assert await asyncio.to_thread(self.entered.wait, 5)


async def test_greedy_output_is_the_models_own_and_usage_counts_it(decoder, running, collect):
    async with running(decoder) as handle:
        ids, finished = await collect(handle, request("a", range(5)))
    assert ids == decoder.solo(tuple(range(5)), 10)
    assert finished.reason is FinishReason.LENGTH
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens, finished.usage.cached_tokens) == (5, 10, 0)


async def test_a_stop_token_ends_the_output_and_is_not_part_of_it(decoder, running, collect):
    expected = decoder.solo((1, 2, 3), 10)
    stop = expected[4]
    async with running(decoder) as handle:
        ids, finished = await collect(handle, request("a", (1, 2, 3), stop_ids=frozenset({stop})))
    assert ids == expected[: expected.index(stop)]
    assert finished.reason is FinishReason.STOP and finished.stop_id == stop


async def test_a_batch_gives_what_each_request_gives_alone(decoder, running, collect):
    prompts = [tuple(range(n, n + 3 * n + 1)) for n in range(1, 12)]
    async with running(decoder) as handle:
        results = await asyncio.gather(*(collect(handle, request(str(p), p)) for p in prompts))
    assert [ids for ids, _ in results] == [decoder.solo(p, 10) for p in prompts]


async def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(make_decoder, running, collect):
    drawn = request("a", (4, 5), sampling=Sampling(1.0, top_k=20, top_p=0.9, seed=3))
    async with running(make_decoder()) as handle:
        alone, _ = await collect(handle, drawn)
    async with running(make_decoder()) as handle:
        others = [request(f"o{n}", (n, n), 15, sampling=Sampling(seed=n)) for n in range(3)]
        (crowded, _), *_ = await asyncio.gather(*(collect(handle, r) for r in (drawn, *others)))
    assert alone == crowded != make_decoder().solo((4, 5), 10)


async def test_a_long_prompt_does_not_stall_running_streams(make_decoder, running, collect, recorder):
    decoder = make_decoder(max_len=8192)
    async with running(decoder, EngineOptions(prefill_tokens=16), recorder) as handle:
        stream = handle.generate(request("short", (1, 2), 8000))  # more than it can say meanwhile
        assert isinstance(await anext(stream), Tokens)
        await collect(handle, request("long", [3] * 500, 2))
        await stream.aclose()
    during = [step for step in recorder.steps if step.prefill_tokens > 2]
    assert len(during) >= 500 / 16 and all(step.prefill_tokens <= 16 for step in during)
    assert all(step.rows == 1 for step in during)


async def test_closing_the_iterator_frees_the_slot_within_a_step(make_decoder, running, recorder):
    decoder = make_decoder(max_len=8192)
    async with running(decoder, EngineOptions(speculate=False), recorder) as handle:
        async with aclosing(handle.generate(request("a", (1, 2), 8000))) as stream:
            await anext(stream)
            gate = decoder.before = Gate()
            await gate.reached()
        gate.opened.set()
        await recorder.finished(1)
        assert handle.snapshot().running == 0
        calls = [call for call, _ in decoder.calls]
        assert calls.count("decode") == recorder.reports[0].completion_tokens - 1  # none after the one it was closed in
    assert recorder.reports[0].reason == "cancelled"


async def test_cancelling_the_task_frees_the_slot(decoder, running, collect, recorder):
    async with running(decoder, observer=recorder) as handle:
        gate = decoder.before = Gate()
        task = asyncio.create_task(collect(handle, request("a", (1, 2), 100)))
        await gate.reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.opened.set()
        await recorder.finished(1)
        assert handle.snapshot().running == 0


async def test_abort_ends_the_stream_as_cancelled(make_decoder, running):
    async with running(make_decoder(max_len=8192)) as handle:
        assert not handle.abort("a")
        events = []
        async for event in handle.generate(request("a", (1, 2), 8000)):
            events.append(event)
            handle.abort("a")
        assert not handle.abort("a")
    assert isinstance(events[-1], Finished) and events[-1].reason is FinishReason.CANCELLED


async def test_a_lagging_reader_gets_several_tokens_at_once(decoder, running, recorder):
    async with running(decoder, observer=recorder) as handle:
        gate = decoder.before = Gate()
        stream = handle.generate(request("a", (1, 2), 20))
        first = await anext(stream)
        gate.opened.set()
        await recorder.finished(1)
        rest = await anext(stream)
        assert len(first.ids) + len(rest.ids) == 20
        assert isinstance(await anext(stream), Finished)


async def test_prompt_and_output_beyond_the_context_are_refused_with_the_numbers(decoder, running):
    async with running(decoder) as handle:
        with pytest.raises(ContextOverflow) as caught:
            await anext(handle.generate(request("a", range(20), 109)))
        assert caught.value.metadata == {"prompt_tokens": "20", "max_tokens": "109", "context": "128"}
        assert isinstance(await anext(handle.generate(request("a", range(20), 108))), Tokens)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": ()}, "prompt"),
        ({"prompt": (50,)}, "prompt"),
        ({"prompt": (-1,)}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"sampling": Sampling(temperature=float("nan"))}, "sampling.temperature"),
        ({"sampling": Sampling(top_p=0.0)}, "sampling.top_p"),
        ({"sampling": Sampling(min_p=float("inf"))}, "sampling.min_p"),
        ({"sampling": Sampling(top_k=-1, seed=-1)}, "sampling.top_k"),
    ],
)
async def test_a_request_that_cannot_run_is_refused_by_field(decoder, running, change, field):
    async with running(decoder) as handle:
        with pytest.raises(InvalidRequest) as caught:
            await anext(
                handle.generate(EngineRequest(**{"request_id": "a", "prompt": (1,), "max_tokens": 1, **change}))
            )
    assert caught.value.violations[0].field == field


async def test_one_id_runs_once_at_a_time(make_decoder, running):
    async with running(make_decoder(max_len=8192)) as handle:
        async with aclosing(handle.generate(request("a", (1,), 8000))) as stream:
            await anext(stream)
            with pytest.raises(InvalidRequest, match="already running"):
                await anext(handle.generate(request("a", (1,))))
        async with aclosing(handle.generate(request("a", (1,)))) as stream:
            assert isinstance(await anext(stream), Tokens)


async def test_a_full_queue_refuses_at_once_and_takes_again_later(decoder, running, collect):
    async with running(decoder, EngineOptions(max_waiting=2)) as handle:
        gate = decoder.before = Gate("prefill")
        tasks = [asyncio.create_task(collect(handle, request(str(n), (n, n)))) for n in range(6)]
        await gate.reached()
        with pytest.raises(ResourceExhausted) as caught:
            await collect(handle, request("late", (1, 2)))
        assert caught.value.metadata["waiting"] == "2" and caught.value.metadata["retry_after_seconds"]
        gate.opened.set()
        await asyncio.gather(*tasks)
        await collect(handle, request("late", (1, 2)))


async def test_requests_start_in_the_order_they_came(decoder, running, collect, recorder):
    async with running(decoder, observer=recorder) as handle:
        await asyncio.gather(*(collect(handle, request(str(n), (n, n))) for n in range(12)))
    assert [report.request_id for report in recorder.reports] == [str(n) for n in range(12)]


async def test_a_failing_prefill_fails_its_request_alone(decoder, running, collect):
    def fail(call, tokens):
        if call == "prefill" and tokens[0] == 13:
            raise RuntimeError("broken")

    decoder.before = fail
    async with running(decoder) as handle:
        good, bad = await asyncio.gather(
            collect(handle, request("good", (1, 2))), collect(handle, request("bad", (13, 13))), return_exceptions=True
        )
    assert good[0] == decoder.solo((1, 2), 10)
    assert isinstance(bad, InternalError) and bad.metadata["error_id"] in bad.message and "broken" not in bad.message


async def test_a_failing_decode_fails_its_rows_and_the_engine_survives(decoder, running, collect):
    def fail(call, tokens):
        if call == "decode":
            raise RuntimeError("broken")

    async with running(decoder) as handle:
        decoder.before = fail
        results = await asyncio.gather(
            *(collect(handle, request(str(n), (n, n))) for n in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [InternalError] * 3
        decoder.before = None
        assert (await collect(handle, request("a", (1, 2))))[0] == decoder.solo((1, 2), 10)


async def test_logits_without_a_finite_maximum_fail_their_row_alone(decoder, running, collect):
    honest, fatal = decoder.drawn, decoder.hashed(np.array([13, 13, *decoder.solo((13, 13), 3)]))
    decoder.drawn = lambda seed: np.full(50, np.nan, np.float32) if seed == fatal else honest(seed)
    async with running(decoder) as handle:
        good, bad = await asyncio.gather(
            collect(handle, request("good", (1, 2))), collect(handle, request("bad", (13, 13))), return_exceptions=True
        )
    assert good[0] == decoder.solo((1, 2), 10) and isinstance(bad, InternalError)


async def test_stop_lets_running_requests_finish_and_refuses_the_rest(decoder, running, collect):
    async with running(decoder) as handle:
        gate = decoder.before = Gate()
        tasks = [asyncio.create_task(collect(handle, request(str(n), (n, n)))) for n in range(6)]
        await gate.reached()
        stopping = asyncio.create_task(handle.stop(5))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await collect(handle, request("late", (1, 2)))
        gate.opened.set()
        await stopping
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [finished.reason for _, finished in results[:4]] == [FinishReason.LENGTH] * 4
    assert [type(result) for result in results[4:]] == [Unavailable] * 2


async def test_stop_without_grace_cancels_what_runs(make_decoder, running, collect):
    decoder = make_decoder(max_len=100_000)
    async with running(decoder) as handle:
        task = asyncio.create_task(collect(handle, request("a", (1, 2), 90_000)))
        stream = handle.generate(request("b", (1, 2), 90_000))
        await anext(stream)
        async with asyncio.timeout(5):
            await handle.stop(0)
            _, finished = await task
    assert finished.reason is FinishReason.CANCELLED


async def test_a_handle_that_was_not_started_refuses(decoder):
    with pytest.raises(Unavailable, match="not started"):
        await anext(EngineHandle(decoder).generate(request("a", (1,))))


async def test_a_request_is_reported_with_its_times(decoder, running, collect, recorder):
    async with running(decoder, observer=recorder) as handle:
        await collect(handle, request("a", (1, 2, 3)))
        stats = handle.snapshot()
    report = recorder.reports[0]
    assert (report.reason, report.prompt_tokens, report.completion_tokens) == ("length", 3, 10)
    assert 0 <= report.queue <= report.first_token <= report.total
    assert len(report.gaps) == 9 and abs(report.first_token + sum(report.gaps) - report.total) < 0.1
    assert stats.generated_tokens == 10 and stats.prompt_tokens == 3 and stats.steps == 10


async def test_an_observer_that_raises_does_not_harm_the_stream(decoder, running, collect):
    class Broken:
        def on_step(self, report):
            raise RuntimeError("broken observer")

        def on_finished(self, report):
            raise RuntimeError("broken observer")

    async with running(decoder, observer=Broken()) as handle:
        assert (await collect(handle, request("a", (1, 2))))[0] == decoder.solo((1, 2), 10)


async def test_when_the_thread_dies_every_stream_ends_and_new_ones_are_refused(decoder, running, collect):
    def die(call, tokens):
        raise SystemExit  # past every handler of a step

    async with running(decoder) as handle:
        decoder.before = die
        async with asyncio.timeout(5):
            runs = (collect(handle, request(str(n), (n, n))) for n in range(6))
            results = await asyncio.gather(*runs, return_exceptions=True)
            with pytest.raises(Unavailable, match="died"):
                await collect(handle, request("late", (1, 2)))
    assert all(isinstance(result, InternalError | Unavailable) for result in results)


def test_what_crosses_to_the_thread_and_back_can_be_pickled():
    error = InternalError("failed", metadata={"error_id": "1"})
    for message in (Submit(1, request("a", (1,)), 0.0), Batch(tokens=[(1, 2)], ended=[Ended(1, None, error=error)])):
        copy = pickle.loads(pickle.dumps(message))
        assert type(copy) is type(message)
    assert copy.ended[0].error.metadata == {"error_id": "1"}
