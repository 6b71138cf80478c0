"""Log probabilities, of completions and of prompts, from one row and through the engine."""

import asyncio

import numpy as np
import pytest
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Finished, PromptScores, Sampling, Tokens
from narthex_server.engine.sampling.logprobs import Distribution, ScoredPrompt
from narthex_server.errors import InvalidRequest


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("vocab", [3, 700, 128_256])
def test_a_position_is_the_log_softmax_with_ranks(vocab):
    logits = (np.random.default_rng(vocab).normal(size=vocab) * 4).astype(np.float32)
    wanted, order = log_softmax(logits), np.argsort(-logits, kind="stable")
    distribution = Distribution(logits)
    for token in (0, vocab - 1, int(order[0])):
        found = distribution.position(token, 20)
        assert found.chosen.token == token and found.chosen.rank == order.tolist().index(token) + 1
        assert found.chosen.logprob == pytest.approx(wanted[token], abs=1e-5)
        assert [one.token for one in found.candidates] == order[:20].tolist()
        assert [one.rank for one in found.candidates] == [*range(1, min(20, vocab) + 1)]
        assert [one.logprob for one in found.candidates] == pytest.approx(wanted[order[:20]].tolist(), abs=1e-5)
    assert distribution.position(0, 0).candidates == ()


def test_equal_tokens_share_a_rank_and_one_that_cannot_come_has_no_probability():
    found = Distribution(np.array([1, 2, 2, -np.inf, 2], np.float32)).position(3, 5)
    assert [one.rank for one in found.candidates] == [1, 1, 1, 4, 5] and found.chosen.rank == 5
    assert found.chosen.logprob == -np.inf


def test_what_is_computed_again_is_not_scored_again():
    scored = ScoredPrompt((1, 2, 3, 4, 0), 0)
    assert scored.rows(0, 3).tolist() == [0, 1, 2]
    for _ in range(3):
        scored.add(np.zeros(5, np.float32))
    assert scored.rows(0, 2).tolist() == []
    assert scored.rows(0, 5).tolist() == [3] and scored.rows(3, 2).tolist() == [0]
    assert len(scored.take()) == 3 and scored.take() == []


async def run(handle, request):
    prompt, ids, logprobs, order = [], [], [], []
    async for event in handle.generate(request):
        order.append(type(event))
        match event:
            case PromptScores():
                prompt += event.logprobs
            case Tokens():
                ids += event.ids
                logprobs += event.logprobs
            case Finished():
                assert order == sorted(order, key=(PromptScores, Tokens, Finished).index)
                return prompt, ids, logprobs


def rows_of(decoder, tokens):
    """The logits after each of the tokens, computed alone."""
    return [decoder.drawn(decoder.hashed(np.array(tokens[: at + 1]))) for at in range(len(tokens))]


@pytest.mark.parametrize("state_bytes", [0, 8])
@pytest.mark.parametrize("prefill_tokens", [7, 256])
async def test_prompts_are_scored_whole_whatever_is_cached_and_however_they_are_cut(
    running, make_decoder, state_bytes, prefill_tokens
):
    decoder = make_decoder(max_len=256, state_bytes=state_bytes)
    prompt = tuple(np.random.default_rng(0).integers(50, size=150).tolist())
    async with running(decoder, EngineOptions(prefill_tokens=prefill_tokens)) as handle:
        for number, size in enumerate((150, 150, 2, 1)):  # the second one finds the first one's cache
            asked = EngineRequest(str(number), prompt[:size], 3, sampling=Sampling(0), logprobs=1, prompt_logprobs=2)
            scores, ids, logprobs = await run(handle, asked)
            rows = rows_of(decoder, [*prompt[:size], *ids])
            assert len(scores) == size - 1 and len(logprobs) == len(ids) == 3
            tokens = [*prompt[1:size], *ids]
            for position, token, row in zip([*scores, *logprobs], tokens, rows, strict=False):
                assert position.chosen.token == token
                assert position.chosen.logprob == pytest.approx(log_softmax(row)[token], abs=1e-5)
                assert position.candidates[0].token == int(row.argmax())
            assert {len(one.candidates) for one in scores} <= {2} and {len(one.candidates) for one in logprobs} == {1}
        assert max(size for call, size in decoder.calls if call == "prefill") <= 64  # rows as wide as the vocabulary
        _, ids, _ = await run(handle, EngineRequest("after", prompt, 3, sampling=Sampling(0)))
        assert handle.snapshot().cached_tokens > 0  # a scored prompt's cache serves the next one


async def test_logprobs_are_the_models_own_and_change_nothing(running, decoder):
    sampling = Sampling(0.7, seed=1, presence_penalty=2, logit_bias=((3, 5.0),))
    async with running(decoder) as handle:
        _, plain, none = await run(handle, EngineRequest("a", (1, 2, 3), 20, sampling=sampling))
        _, ids, logprobs = await run(handle, EngineRequest("b", (1, 2, 3), 20, sampling=sampling, logprobs=0))
    assert ids == plain and none == []
    for row, token, position in zip(rows_of(decoder, [1, 2, 3, *ids])[2:], ids, logprobs, strict=False):
        assert position.chosen.logprob == pytest.approx(log_softmax(row)[token], abs=1e-5)


async def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(running, make_decoder):
    options = Sampling(0.9, seed=42, frequency_penalty=0.5, repetition_penalty=1.2, top_p=0.9)
    asked = EngineRequest("a", (1, 2, 3), 30, sampling=options)
    async with running(make_decoder()) as handle:
        _, alone, _ = await run(handle, asked)
        others = [
            EngineRequest(f"o{n}", (n, 5), 40, sampling=Sampling(n / 4, seed=n, min_p=0.05), logprobs=n % 3 or None)
            for n in range(6)
        ]
        (_, together, _), *_ = await asyncio.gather(run(handle, asked), *(run(handle, other) for other in others))
    assert together == alone


async def test_a_request_that_leaves_no_token_ends_alone_and_says_why(running, decoder):
    class Nothing:
        def mask(self, logits):
            logits[:] = -np.inf

        def accept(self, token):
            raise AssertionError

    async with running(decoder) as handle:
        asked = EngineRequest("a", (1, 2), 5, sampling=Sampling(allowed_token_ids=(3,)), grammar=Nothing())
        other = asyncio.create_task(run(handle, EngineRequest("b", (1, 2), 30, sampling=Sampling(0))))
        with pytest.raises(InvalidRequest, match="leave no token"):
            await run(handle, asked)
        assert tuple((await other)[1]) == decoder.solo((1, 2), 30)
