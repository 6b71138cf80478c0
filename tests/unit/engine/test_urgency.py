"""Urgent requests, which go before others without changing what those get."""

import asyncio
import random

import pytest
from narthex_server.engine.line import YIELDS, Line
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Sampling, Tokens, Urgency
from narthex_server.engine.sequence import Sequence

GREEDY = Sampling(temperature=0)
LOW, NORMAL, HIGH = Urgency
KINDS = {"plain": {}, "stateful": {"state_bytes": 8}, "two classes": {"long": 40}}


def request(name, urgency, begin=0, size=20, count=60, **fields):
    prompt = tuple((begin + n) % 50 for n in range(size))
    return EngineRequest(name, prompt, count, urgency=urgency, **{"sampling": GREEDY, **fields})


class Stage:
    """An engine whose slots are taken by streams that have begun; those that end are in `order`."""

    def __init__(self, handle, collect, recorder):
        self.handle, self.collect, self.recorder = handle, collect, recorder
        self.tasks = []

    async def begin(self, *requests):
        for one in requests:
            events = self.handle.generate(one)
            first = await anext(events)
            self.tasks.append(asyncio.create_task(self.rest(first, events)))

    @staticmethod
    async def rest(first, events):
        return (*first.ids, *[token async for event in events if isinstance(event, Tokens) for token in event.ids])

    def come(self, one):
        self.tasks.append(asyncio.create_task(self.outcome(one)))

    async def outcome(self, one):
        return (await self.collect(self.handle, one))[0]

    async def end(self):
        async with asyncio.timeout(20):
            return await asyncio.gather(*self.tasks)

    @property
    def order(self):
        return [report.request_id for report in self.recorder.reports]


@pytest.fixture
def stage(collect, recorder):
    return lambda handle: Stage(handle, collect, recorder)


@pytest.mark.parametrize("appends", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_youngest_of_low_urgency_lends_its_slot_and_everybody_gets_what_it_gets_alone(
    make_decoder, running, stage, recorder, kind, appends
):
    decoder = make_decoder(slots=2, max_len=2048, **KINDS[kind])
    decoder.appends = appends
    batch = [request(str(n), LOW, n, count=400) for n in range(2)]
    async with running(decoder, EngineOptions(speculate=False), recorder) as handle:
        at = stage(handle)
        await at.begin(*batch)
        await at.begin(urgent := request("urgent", HIGH, 7, count=5))
        got = await at.end()
        assert handle.snapshot().preemptions == 1
    assert at.order == ["urgent", "0", "1"]
    assert got == [decoder.solo(one.prompt, one.max_tokens) for one in (*batch, urgent)]


async def test_draws_go_on_as_if_nothing_had_happened(make_decoder, running, stage, recorder, collect):
    drawn = request("a", LOW, count=400, sampling=Sampling(1.0, top_k=20, seed=3))
    async with running(make_decoder(slots=1, max_len=2048)) as handle:
        alone, _ = await collect(handle, drawn)
    async with running(make_decoder(slots=1, max_len=2048), EngineOptions(), recorder) as handle:
        at = stage(handle)
        await at.begin(drawn)
        await at.begin(request("urgent", HIGH, 7, count=5))
        got = await at.end()
        assert handle.snapshot().preemptions == 1
    assert got[0] == alone and at.order == ["urgent", "a"]


async def test_what_is_not_of_low_urgency_keeps_its_slot(make_decoder, running, stage, recorder):
    async with running(make_decoder(slots=2, max_len=2048), EngineOptions(), recorder) as handle:
        at = stage(handle)
        await at.begin(request("normal", NORMAL, count=200), request("high", HIGH, 1, count=300))
        at.come(request("urgent", HIGH, 7, count=5))
        await at.end()
        assert handle.snapshot().preemptions == 0
    assert at.order[0] == "normal"


async def test_however_many_urgent_ones_come_each_other_one_is_sent_back_only_so_often(
    make_decoder, running, collect, recorder
):
    async with running(make_decoder(slots=1, max_len=2048), EngineOptions(), recorder) as handle:
        low = asyncio.create_task(collect(handle, request("low", LOW, count=300)))
        names = iter(range(100_000))

        async def urgent():
            while not low.done():
                await collect(handle, request(f"urgent {next(names)}", HIGH, 7, count=20))

        async with asyncio.timeout(20):
            await asyncio.gather(*(urgent() for _ in range(3)))
        assert handle.snapshot().preemptions <= YIELDS
    assert len((await low)[0]) == 300


def test_an_urgent_one_passes_those_that_wait_each_only_so_often():
    line, sequences = Line(), {}
    for key, urgency in enumerate([LOW, NORMAL, HIGH, HIGH, HIGH, LOW]):
        sequences[key] = Sequence(key, request(str(key), urgency), 0.0)
        line.join(sequences[key])
    assert [sequence.key for sequence in line] == [2, 3, 0, 1, 4, 5]


async def test_short_memory_is_no_reason_to_send_an_urgent_one_back(make_decoder, running, stage, recorder):
    decoder = make_decoder(max_len=512)
    async with running(decoder, EngineOptions(kv_tokens=400), recorder) as handle:
        at = stage(handle)
        await at.begin(request("low", LOW, count=300))
        await at.begin(request("urgent", HIGH, 7, count=300))
        got = await at.end()
        assert handle.snapshot().preemptions >= 1
    assert at.order == ["urgent", "low"]
    assert got == [decoder.solo(request("", LOW, begin).prompt, 300) for begin in (0, 7)]


async def test_what_would_not_make_enough_room_is_not_sent_back(make_decoder, running, stage, recorder):
    decoder = make_decoder(max_len=512)
    async with running(decoder, EngineOptions(kv_tokens=256), recorder) as handle:
        at = stage(handle)
        await at.begin(request("normal", NORMAL, size=150, count=60))
        await at.begin(request("low", LOW, 9, size=5, count=30))
        at.come(request("urgent", HIGH, 17, size=120, count=3))
        await at.end()
        assert handle.snapshot().preemptions == 0


async def test_any_mixture_gives_everybody_what_it_gets_alone(make_decoder, running, collect):
    decoder, rng = make_decoder(slots=3), random.Random(5)
    async with running(decoder, EngineOptions(kv_tokens=200, prefill_tokens=16)) as handle:
        for turn in range(20):
            asked = [
                request(
                    f"{turn}.{n}", rng.choice([*Urgency]), rng.randrange(50), rng.randint(1, 60), rng.randint(1, 60)
                )
                for n in range(rng.randint(1, 12))
            ]

            async def late(one):
                for _ in range(rng.randrange(200)):
                    await asyncio.sleep(0)
                return (await collect(handle, one))[0]

            async with asyncio.timeout(20):
                got = await asyncio.gather(*map(late, asked))
            assert got == [decoder.solo(one.prompt, one.max_tokens) for one in asked]
        assert handle.snapshot().preemptions > 0
