"""Whatever fails, the engine goes on, and nothing is left of what failed."""

import asyncio
import logging

import numpy as np
import pytest
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Sampling
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Kept, Slots
from narthex_server.errors import InternalError

GREEDY = Sampling(temperature=0)


def request(name, prompt, count=10, **fields):
    return EngineRequest(name, tuple(prompt), count, **{"sampling": GREEDY, **fields})


class Raising:
    """A grammar that fails at its `at`-th token, in one of its two methods."""

    def __init__(self, at, method):
        self.left, self.method = at, method

    def mask(self, logits):
        self._count("mask")

    def accept(self, token):
        self._count("accept")

    def _count(self, method):
        if method == self.method:
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("broken grammar")


@pytest.mark.parametrize("method", ["mask", "accept"])
@pytest.mark.parametrize("at", [1, 4])
async def test_a_grammar_that_raises_fails_its_request_alone(decoder, running, collect, method, at):
    async with running(decoder) as handle:
        bad, good = await asyncio.gather(
            collect(handle, request("bad", range(20), grammar=Raising(at, method))),
            collect(handle, request("good", range(1, 21))),
            return_exceptions=True,
        )
        assert isinstance(bad, InternalError) and good[0] == decoder.solo(tuple(range(1, 21)), 10)
        assert (await collect(handle, request("after", range(20))))[0] == decoder.solo(tuple(range(20)), 10)


@pytest.mark.parametrize("call", ["copy", "save", "restore", "release", "prefix_class"])
async def test_a_session_that_raises_between_steps_harms_nobody_else_for_long(make_decoder, running, collect, call):
    decoder = make_decoder(slots=2, state_bytes=8)
    honest, failing = getattr(decoder, call), True

    def fail(*args):
        if failing:
            raise RuntimeError("broken")
        return honest(*args)

    prompts = [tuple(range(n, n + 40)) for n in range(3)] + [(*range(35), 7, 8), (*range(35), 9)]
    async with running(decoder, EngineOptions(prefill_tokens=16)) as handle:
        await collect(handle, request("before", prompts[0]))
        setattr(decoder, call, fail)
        async with asyncio.timeout(10):
            runs = (collect(handle, request(str(n), p)) for n, p in enumerate(prompts))
            results = await asyncio.gather(*runs, return_exceptions=True)
        for prompt, result in zip(prompts, results, strict=True):
            assert isinstance(result, InternalError) or result[0] == decoder.solo(prompt, 10)
        failing = False
        for prompt in prompts:
            assert (await collect(handle, request("after", prompt)))[0] == decoder.solo(prompt, 10)
        assert (handle.snapshot().running, handle.snapshot().waiting) == (0, 0)


async def test_the_one_whose_copy_fails_fails_alone(make_decoder, running, collect):
    decoder = make_decoder(slots=4)

    def fail(call, tokens):
        if call == "copy":
            raise RuntimeError("broken")

    decoder.before = fail
    prompts = [(*range(45), n) for n in range(3)]
    async with running(decoder, EngineOptions(prefill_tokens=16)) as handle:
        runs = (collect(handle, request(str(n), p, 30)) for n, p in enumerate(prompts))
        ahead, *others = await asyncio.gather(*runs, return_exceptions=True)
    assert ahead[0] == decoder.solo(prompts[0], 30)
    assert all(isinstance(other, InternalError) for other in others)


@pytest.fixture
def slots(decoder):
    slots = Slots(decoder, 100)
    sequence = Sequence(1, request("a", range(20)), 0.0)
    slots.take(sequence)
    slots.advance(sequence, 20)
    slots.give(sequence, keep=True)
    assert slots.audit() == []
    return slots


def leave_active(slots):
    slots.take(Sequence(2, request("b", range(30, 50)), 0.0))


def hold_too_much(slots):
    slots.held[2] = 5


def mark_nothing(slots):
    slots.marks.save(3, 20)


def overdraw(slots):
    slots._kept[1] = Kept(np.zeros(90, np.int64), 0)
    slots.held[1] = 90


@pytest.mark.parametrize("damage", [leave_active, hold_too_much, mark_nothing, overdraw])
def test_what_is_wrong_with_idle_slots_is_found_and_forgotten(slots, damage):
    damage(slots)
    assert slots.audit()
    slots.reset()
    assert slots.audit() == [] and slots.free == 4 and slots.kept == 0


async def test_an_idle_engine_says_what_is_wrong_and_repairs_it(decoder, running, collect, monkeypatch, caplog):
    honest = Slots.give

    def forgetful(self, sequence, keep):
        slot = sequence.slot
        honest(self, sequence, keep)
        self.active[slot] = sequence

    async with running(decoder) as handle:
        monkeypatch.setattr(Slots, "give", forgetful)
        await collect(handle, request("a", range(20)))
        monkeypatch.setattr(Slots, "give", honest)
        runs = (collect(handle, request(str(n), range(n, n + 20))) for n in range(4))
        results = await asyncio.gather(*runs)
        assert [ids for ids, _ in results] == [decoder.solo(tuple(range(n, n + 20)), 10) for n in range(4)]
    assert "is held by" in caplog.text and all(
        r.levelno == logging.ERROR for r in caplog.records if "reset" in r.message
    )
    caplog.clear()
