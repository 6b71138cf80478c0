"""The DRY penalty against its definition, tried by brute force."""

import numpy as np
import pytest
from narthex_server.engine.request import Dry
from narthex_server.engine.sampling.dry import DryPenalty


def longest_repeat(tokens, token, dry):
    """How many tokens before an earlier `token` are the same as those at the end."""
    seen = tokens[-dry.window :] if dry.window else tokens
    best = 0
    for at in (index for index, other in enumerate(seen) if other == token):
        size = 0
        while size < at and seen[at - 1 - size] == seen[-1 - size] and seen[-1 - size] not in dry.breakers:
            size += 1
        best = max(best, size)
    return best


def by_definition(tokens, dry, vocab):
    costs = np.zeros(vocab)
    for token in range(vocab):
        size = longest_repeat(tokens, token, dry)
        if size >= max(dry.allowed_length, 1) and token not in dry.breakers:
            costs[token] = min(dry.multiplier * dry.base ** (size - dry.allowed_length), 1e30)
    return costs


@pytest.mark.parametrize(
    "dry",
    [
        Dry(),
        Dry(multiplier=2, base=1.1, allowed_length=0),
        Dry(allowed_length=4, window=20),
        Dry(window=1),
        Dry(allowed_length=1, window=37, breakers=frozenset({0})),
        Dry(breakers=frozenset({0, 2, 9})),
    ],
)
@pytest.mark.parametrize("vocab", [2, 4, 12])
def test_every_step_costs_what_the_definition_says(dry, vocab):
    rng = np.random.default_rng(vocab)
    for _ in range(5):
        tokens = rng.integers(vocab, size=90).tolist()
        tokens[30:50] = tokens[5:25]  # a long one
        penalty, length = DryPenalty(dry), int(rng.integers(1, 60))
        while length <= len(tokens):
            logits = np.zeros(vocab, np.float32)
            penalty.apply(logits, np.array(tokens[:length]))
            np.testing.assert_allclose(-logits, by_definition(tokens[:length], dry, vocab), rtol=1e-5)
            length += int(rng.integers(1, 4))  # several tokens may have been accepted at once


def test_a_loop_of_one_token_is_the_longest_repeat_there_is():
    logits = np.zeros(2, np.float32)
    DryPenalty(Dry(multiplier=1, base=2, allowed_length=1)).apply(logits, np.ones(8, np.int64))
    assert logits.tolist() == [0, -(2**6)]


def test_a_penalty_beyond_all_numbers_stays_finite():
    logits = np.zeros(2, np.float32)
    penalty = DryPenalty(Dry(multiplier=1e6, base=1e6))
    penalty.apply(logits, np.ones(5000, np.int64))
    penalty.apply(logits, np.ones(5001, np.int64))
    assert np.isfinite(logits).all() and logits[1] < -1e29 and logits[0] == 0
