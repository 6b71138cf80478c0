"""Drafts change how fast tokens come, and nothing else."""

import asyncio
import random

import numpy as np
import pytest
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.pace import Pace, Run
from narthex_server.engine.request import EngineRequest, FinishReason, Sampling
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots
from narthex_server.engine.speculation import Speculation

GREEDY = Sampling(temperature=0)
LOOP = (3, 1, 4, 1, 5, 9, 2, 6)


def request(name, prompt, count=60, **fields):
    return EngineRequest(name, tuple(prompt), count, **{"sampling": GREEDY, **fields})


@pytest.fixture
def repeating(make_decoder):
    """A decoder that mostly repeats LOOP, so that drafts are right but for every ninth token or so; runs take time."""

    def make(**fields):
        decoder = make_decoder(**fields)
        honest, places = decoder.hashed, {}

        def hashed(tokens, seed=17):
            found = honest(tokens, seed)
            places[found] = len(tokens)
            return found

        def drawn(seed):
            logits = np.random.default_rng(seed).normal(size=decoder.vocab_size).astype(np.float32)
            if seed % 9:
                logits[LOOP[places[seed] % len(LOOP)]] += 9
            return logits

        decoder.hashed, decoder.drawn = hashed, drawn
        return decoder

    return make


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Rows cost what they cost alone, and so does a draft: drafts pay, and no test depends on the machine."""

    def note(self, kind, size, seconds):
        self._means[kind][size] = 1.0 if kind is Run.VERIFY else float(size)

    monkeypatch.setattr(Pace, "note", note)


async def both(make, running, collect, asked, **options):
    """The results with drafts and without; counts of the run with them."""
    async with running(make(), EngineOptions(**options)) as handle:
        with_drafts = await asyncio.gather(*(collect(handle, one) for one in asked()))
        stats = handle.snapshot()
    async with running(make(), EngineOptions(speculate=False, **options)) as handle:
        without = await asyncio.gather(*(collect(handle, one) for one in asked()))
        assert handle.snapshot().drafts == 0
    assert [ids for ids, _ in with_drafts] == [ids for ids, _ in without]
    assert [finished.reason for _, finished in with_drafts] == [finished.reason for _, finished in without]
    return with_drafts, stats


async def test_greedy_output_is_the_same_in_fewer_steps_and_usage_counts_the_guesses(repeating, running, collect):
    def asked():
        return [request(str(n), LOOP * 2 + (n,), 80) for n in range(3)]

    results, stats = await both(repeating, running, collect, asked)
    assert stats.accepted_tokens > 100 and stats.steps < 80
    assert stats.draft_tokens == sum(finished.usage.speculated_tokens for _, finished in results)
    assert stats.accepted_tokens == sum(finished.usage.accepted_tokens for _, finished in results)


async def test_seeded_draws_are_the_same(repeating, running, collect):
    def asked():
        return [request(str(n), LOOP * 2, 80, sampling=Sampling(2.5, top_p=0.95, seed=n)) for n in range(4)]

    _, stats = await both(repeating, running, collect, asked)
    assert 0 < stats.accepted_tokens < stats.draft_tokens


async def test_stop_tokens_and_limits_within_a_draft_end_the_output_there(repeating, running, collect):
    def asked():
        return [request(str(n), LOOP * 3, 20 + n, stop_ids=frozenset({40 + n})) for n in range(10)]

    results, stats = await both(repeating, running, collect, asked, max_waiting=20)
    assert stats.accepted_tokens > 50 and any(finished.reason is FinishReason.LENGTH for _, finished in results)
    stop = results[0][0][11]

    def stopping():
        return [request(str(n), LOOP * 3, 50, stop_ids=frozenset({stop})) for n in range(2)]

    results, _ = await both(repeating, running, collect, stopping)
    assert all(finished.stop_id == stop and stop not in ids for ids, finished in results)


class Strict:
    """A grammar that is told every token once and in order, and nothing after the stop token."""

    def __init__(self, stop):
        self.stop, self.seen, self.masked = stop, [], False

    def mask(self, logits):
        assert not self.masked and self.stop not in self.seen
        logits[13] = float("-inf")
        self.masked = True

    def accept(self, token):
        assert self.masked
        self.masked = False
        self.seen.append(token)


async def test_a_grammar_sees_what_was_chosen_and_nothing_of_what_was_only_guessed(repeating, running, collect):
    made = []

    def asked():
        made.append([Strict(2), Strict(49)])
        stops = (frozenset({2}), frozenset({49}))
        return [request(str(n), LOOP * 3, 60, grammar=made[-1][n], stop_ids=stops[n]) for n in range(2)]

    results, stats = await both(repeating, running, collect, asked)
    assert stats.accepted_tokens > 10
    for (ids, finished), grammar in zip(results, made[0], strict=True):
        assert tuple(grammar.seen) == (*ids, *([finished.stop_id] if finished.stop_id is not None else []))


async def test_what_was_guessed_wrong_is_forgotten_by_the_cache(repeating, running, collect):
    decoder = repeating()
    async with running(decoder) as handle:
        history = LOOP * 2
        for turn in range(3):
            ids, finished = await collect(handle, request("a", history, 20))
            assert ids == decoder.solo(history, 20)
            assert finished.usage.cached_tokens == (len(history) - 2 if turn else 0)
            history = (*history, *ids, 7)
        assert handle.snapshot().accepted_tokens < handle.snapshot().draft_tokens


async def test_drafts_and_preemption_and_arrivals_together_change_nothing(repeating, running, collect):
    rng = random.Random(1)
    prompts = [LOOP * 2 + tuple(rng.randrange(50) for _ in range(rng.randrange(20))) for _ in range(12)]

    def asked():
        return [
            request(str(n), p, 10 + 5 * n, sampling=Sampling(n % 3, top_k=9, seed=n)) for n, p in enumerate(prompts)
        ]

    _, stats = await both(repeating, running, collect, asked, kv_tokens=200)
    assert stats.preemptions > 0 and stats.accepted_tokens > 0


async def test_states_cannot_be_cut_back_so_nothing_is_guessed(make_decoder, running, collect):
    async with running(make_decoder(state_bytes=8)) as handle:
        await collect(handle, request("a", LOOP * 4))
        assert handle.snapshot().drafts == 0


async def test_no_draft_reaches_from_short_prompts_into_long_ones(repeating, running, collect):
    def asked():
        return [request(str(n), LOOP * 2 + (n,), 60) for n in range(3)]

    _, stats = await both(lambda: repeating(long=40), running, collect, asked)
    assert stats.drafts > 0


class Times:
    """A decode step of n rows, and a run over n tokens."""

    def __init__(self, decode, verify):
        self.pace = Pace()
        for size in range(1, 17):
            self.pace._means[Run.DECODE][size] = decode(size)
            self.pace._means[Run.VERIFY][size] = verify(size)


def sequences(count, chance):
    made = []
    for key in range(count):
        sequence = Sequence(key, request(str(key), LOOP * 3, 60), 0.0)
        sequence.slot, sequence.cached = key, sequence.length - 1
        made.append(sequence)
    return made


@pytest.mark.parametrize(
    ("rows", "verify", "chance", "drafts"),
    [
        (1, lambda n: 1 + 0.1 * n, 0.9, True),  # nine tokens for the price of two
        (1, lambda n: 1 + 0.1 * n, 0.05, False),  # rarely right
        (1, lambda n: float(n), 0.9, False),  # a run costs what its tokens cost one by one
        (8, lambda n: 1 + 0.1 * n, 0.9, False),  # eight rows cost little more than seven
    ],
)
def test_drafts_are_tried_where_they_give_more_tokens_a_second(make_decoder, rows, verify, chance, drafts):
    times = Times(lambda n: 1 + 0.02 * n, verify)
    speculation = Speculation(Slots(make_decoder(slots=8)), times.pace, True)
    running = sequences(rows, chance)
    speculation.choose(running, 100)
    for sequence in running:
        if sequence.lookup is not None:
            sequence.lookup.chance = chance
    assert bool(speculation.choose(running, 100)) is drafts


def test_a_measurement_against_drafts_is_not_believed_for_ever(make_decoder):
    times = Times(lambda n: 1.0, lambda n: 30.0)
    speculation = Speculation(Slots(make_decoder()), times.pace, True)
    running = sequences(1, 0.9)
    tried = next(turn for turn in range(5000) if speculation.choose(running, 100))
    assert tried > 100


def test_a_draft_never_exceeds_the_room_there_is(make_decoder):
    times = Times(float, lambda n: 1.0)
    speculation = Speculation(Slots(make_decoder()), times.pace, True)
    chosen = speculation.choose(sequences(3, 0.9), 5)
    assert chosen and sum(len(draft.tokens) for draft in chosen) <= 5
