"""Penalties against their formulas, and what they keep against what the tokens say."""

import numpy as np
import pytest
from narthex_server.engine.request import Sampling
from narthex_server.engine.sampling.penalties import Penalties


def by_formula(logits, tokens, prompt, sampling):
    wanted = logits.astype(np.float64)
    for token in set(tokens):
        if wanted[token] > 0:
            wanted[token] /= sampling.repetition_penalty
        else:
            wanted[token] *= sampling.repetition_penalty
        count = tokens[prompt:].count(token)
        wanted[token] -= sampling.frequency_penalty * count + sampling.presence_penalty * (count > 0)
    return wanted


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(frequency_penalty=0.7),
        Sampling(presence_penalty=-1.5),
        Sampling(repetition_penalty=1.3),
        Sampling(repetition_penalty=0.5),
        Sampling(frequency_penalty=-2, presence_penalty=1.1, repetition_penalty=1.05),
    ],
)
def test_every_step_of_a_sequence_is_penalised_by_the_formula(sampling):
    rng = np.random.default_rng(3)
    for vocab in (5, 300):
        tokens = rng.integers(vocab, size=200).tolist()
        prompt = 50
        penalties, length = Penalties(sampling, prompt), prompt
        while length <= len(tokens):
            logits = rng.normal(size=vocab).astype(np.float32)
            wanted = by_formula(logits, tokens[:length], prompt, sampling)
            penalties.apply(logits, np.array(tokens[:length]))
            np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
            length += int(rng.integers(1, 4))  # several tokens may have been accepted at once


def test_tokens_that_are_ruled_out_stay_so():
    logits = np.array([-np.inf, 1], np.float32)
    Penalties(Sampling(repetition_penalty=1.5, presence_penalty=-1), 1).apply(logits, np.array([0, 0]))
    assert logits.tolist() == [-np.inf, 1]
