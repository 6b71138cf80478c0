"""Everything that changes a distribution, in its order, against an exact one in float64."""

import numpy as np
import pytest
from narthex_server.engine.request import Dry, EngineRequest, Sampling
from narthex_server.engine.sampling.sampler import Sampler
from narthex_server.errors import InvalidRequest

VOCAB = 40
PROMPT = (1, 2, 3, 4, 9, 1, 2, 3)
SAID = (4, 7, 7, 1, 2, 3)
TOKENS = np.array(PROMPT + SAID)


def exact(logits, s):
    """The distribution of the next token after PROMPT and SAID, one option after the other, as the contract has it."""
    x = logits.astype(np.float64)
    history = [*PROMPT, *SAID]
    if s.dry:
        for token in range(VOCAB):
            sizes = [0]
            for at in (index for index, other in enumerate(history) if other == token):
                size = 0
                while (
                    size < at
                    and history[at - 1 - size] == history[len(history) - 1 - size]
                    and history[at - 1 - size] not in s.dry.breakers
                ):
                    size += 1
                sizes.append(size)
            if max(sizes) >= s.dry.allowed_length and token not in s.dry.breakers:
                x[token] -= s.dry.multiplier * s.dry.base ** (max(sizes) - s.dry.allowed_length)
    for token in set(history):
        x[token] = x[token] / s.repetition_penalty if x[token] > 0 else x[token] * s.repetition_penalty
        x[token] -= SAID.count(token) * s.frequency_penalty + (token in SAID) * s.presence_penalty
    for token, bias in s.logit_bias:
        x[token] += bias
    if s.allowed_token_ids:
        x[[token not in s.allowed_token_ids for token in range(VOCAB)]] = -np.inf
    p = np.exp((x - x.max()) / s.temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    if s.top_k:
        p[order[s.top_k :]] = 0
        p /= p.sum()
    reached = np.cumsum(p[order])
    p[order[int(np.searchsorted(reached, s.top_p * (1 - 1e-12))) + 1 :]] = 0
    p[p < s.min_p * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.6, top_k=12, top_p=0.9, min_p=0.02),
        Sampling(1.7, top_p=0.8),
        Sampling(0.9, min_p=0.1, frequency_penalty=0.6, presence_penalty=0.4),
        Sampling(1.2, repetition_penalty=1.4, logit_bias=((5, 3.0), (7, -2.0), (39, 1.5))),
        Sampling(1.0, dry=Dry(multiplier=0.5, base=1.5), top_k=25),
        Sampling(1.1, allowed_token_ids=(1, 4, 7, 20, 21, 22), logit_bias=((20, 1.0),)),
        Sampling(
            0.8, 20, 0.95, 0.01, None, 0.3, -0.5, 1.15, Dry(0.7, 1.3, 1, 0, frozenset({9})), ((4, 2.0), (30, 4.0)),
            (*range(0, 40, 2), 7, 9),
        ),
    ],
)  # fmt: skip
def test_draws_follow_the_exact_distribution(sampling):
    logits = (np.random.default_rng(8).normal(size=VOCAB) * 1.5).astype(np.float32)
    wanted = exact(logits, sampling)
    request = EngineRequest("r", PROMPT, 100, sampling=Sampling(**{**fields(sampling), "seed": 5}))
    sampler, count = Sampler(request), 12_000
    counts = np.bincount([sampler.choose(logits.copy(), TOKENS) for _ in range(count)], minlength=VOCAB)
    assert not counts[wanted == 0].any()
    expected = wanted * count
    # Rare ones together, as the test needs a few of each kind.
    common = expected >= 5
    seen = np.append(counts[common], counts[~common].sum())
    meant = np.append(expected[common], expected[~common].sum())
    statistic = float((((seen - meant) ** 2)[meant > 0] / meant[meant > 0]).sum())
    freedom = max(int(common.sum()) - 1, 1)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 8


def fields(sampling):
    return {name: getattr(sampling, name) for name in Sampling.__dataclass_fields__}


def test_options_that_are_off_cost_nothing():
    off = Sampling(0, frequency_penalty=0, presence_penalty=0, repetition_penalty=1, dry=Dry(multiplier=0))
    logits = np.arange(VOCAB, dtype=np.float32)
    assert Sampler(EngineRequest("r", PROMPT, 5, sampling=off)).choose(logits, TOKENS) == VOCAB - 1
    assert logits.tolist() == [*range(VOCAB)]


def test_a_bias_outweighs_the_model_and_allowed_tokens_outweigh_a_bias():
    def best(**options):
        request = EngineRequest("r", PROMPT, 5, sampling=Sampling(0, **options))
        return Sampler(request).choose(np.arange(VOCAB, dtype=np.float32), TOKENS)

    assert best(logit_bias=((3, 100.0),)) == 3
    assert best(logit_bias=((39, -100.0),)) == 38
    assert best(logit_bias=((3, 100.0),), allowed_token_ids=(5, 4, 5)) == 5


class AllowsOnly:
    """A grammar that allows certain tokens."""

    def __init__(self, *ids):
        self.ids, self.accepted = [*ids], []

    def mask(self, logits):
        kept = logits[self.ids]
        logits[:] = -np.inf
        logits[self.ids] = kept

    def accept(self, token):
        self.accepted.append(token)


def test_stop_tokens_wait_for_the_least_length_unless_nothing_else_may_come():
    logits = np.arange(VOCAB, dtype=np.float32)

    def chosen(length, grammar=None, stops=frozenset({38, 39, VOCAB + 7})):
        request = EngineRequest("r", PROMPT, 9, stops, Sampling(0), grammar=grammar, min_tokens=2)
        return Sampler(request).choose(logits.copy(), TOKENS[: len(PROMPT) + length])

    assert [chosen(length) for length in (0, 1, 2)] == [37, 37, 39]
    assert chosen(0, AllowsOnly(3, 39)) == 3
    assert chosen(0, AllowsOnly(39)) == 39  # the grammar is complete


def test_allowed_tokens_that_a_grammar_rules_out_are_the_requests_fault():
    request = EngineRequest("r", PROMPT, 9, sampling=Sampling(allowed_token_ids=(1, 2)), grammar=AllowsOnly(3))
    with pytest.raises(InvalidRequest, match="allowed_token_ids"):
        Sampler(request).choose(np.zeros(VOCAB, np.float32), TOKENS)


def test_a_seed_is_a_sequence_of_its_own_whatever_was_chosen_before():
    logits = np.random.default_rng(1).normal(size=VOCAB).astype(np.float32)

    def draws(seed, between):
        sampler = Sampler(EngineRequest("r", PROMPT, 50, sampling=Sampling(seed=seed)))
        drawn = []
        for _ in range(20):
            drawn.append(sampler.choose(logits.copy(), TOKENS))
            if between:
                Sampler(EngineRequest("s", PROMPT, 50, sampling=Sampling())).choose(logits.copy(), TOKENS)
        return drawn

    assert draws(3, between=False) == draws(3, between=True) != draws(4, between=False)
