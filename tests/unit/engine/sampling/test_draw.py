import numpy as np
import pytest
from narthex_server.engine.request import Sampling
from narthex_server.engine.sampling.draw import BadLogits, sample

LOGITS = np.log(np.array([0.5, 0.02, 0.3, 0.08, 0.1], np.float32))


def drawn(sampling, logits=LOGITS, count=4000):
    generator = np.random.default_rng(1)
    counts = np.bincount([sample(logits, sampling, generator) for _ in range(count)], minlength=len(logits))
    return counts / count


def test_temperature_zero_takes_the_best():
    assert drawn(Sampling(temperature=0), count=20)[0] == 1


def test_temperature_one_draws_by_the_models_probabilities():
    assert drawn(Sampling()) == pytest.approx([0.5, 0.02, 0.3, 0.08, 0.1], abs=0.03)


def test_temperature_sharpens_and_flattens():
    assert drawn(Sampling(temperature=0.5))[0] > 0.6
    assert drawn(Sampling(temperature=5))[0] < 0.35


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        (Sampling(top_k=2), {0, 2}),
        (Sampling(top_k=99), {0, 1, 2, 3, 4}),
        (Sampling(top_p=0.79), {0, 2}),
        (Sampling(top_p=0.81), {0, 2, 4}),
        (Sampling(top_p=1e-9), {0}),
        (Sampling(min_p=0.19), {0, 2, 4}),
        (Sampling(min_p=1.0), {0}),
        (Sampling(top_k=3, top_p=0.85), {0, 2}),  # top_p is of what top_k left
        (Sampling(top_k=1), {0}),
    ],
)
def test_filters_leave_exactly_their_candidates(sampling, left):
    frequencies = drawn(sampling)
    assert set(frequencies.nonzero()[0].tolist()) == left


def test_top_p_over_a_large_flat_vocabulary_keeps_the_share():
    logits = np.zeros(5000, np.float32)
    ids = {sample(logits, Sampling(top_p=0.9), np.random.default_rng(n)) for n in range(300)}
    assert max(ids) > 4000 and max(ids) < 4500


def test_equal_logits_are_ranked_by_id():
    logits = np.array([1, 2, 2, 2], np.float32)
    assert set(drawn(Sampling(top_k=2), logits).nonzero()[0].tolist()) == {1, 2}


def test_tiny_temperature_and_masked_logits_are_harmless():
    logits = np.array([-np.inf, 1, 3, -np.inf], np.float32)
    assert drawn(Sampling(temperature=1e-300), logits, 20)[2] == 1
    assert set(drawn(Sampling(), logits).nonzero()[0].tolist()) == {1, 2}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_a_row_without_a_finite_maximum_is_an_error(bad, temperature):
    with pytest.raises(BadLogits):
        sample(np.array([1, bad, 2], np.float32), Sampling(temperature=temperature), np.random.default_rng())
    with pytest.raises(BadLogits):
        sample(np.full(3, -np.inf, np.float32), Sampling(temperature=temperature), np.random.default_rng())
