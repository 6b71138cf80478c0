"""Selection without sorting, against sorting."""

import numpy as np
import pytest
from narthex_server.engine.sampling.largest import heaviest, largest


def rows(count):
    """Random rows of many sizes: continuous, with many ties, all equal."""
    rng = np.random.default_rng(4)
    for trial in range(count):
        values = (rng.normal(size=rng.integers(1, 6000)) * rng.uniform(0.1, 6)).astype(np.float32)
        yield (values, np.round(values), np.full_like(values, 0.1))[trial % 3], rng


def test_the_largest_are_those_of_a_sort_and_equal_ones_the_first():
    for values, rng in rows(300):
        count = int(rng.integers(1, min(len(values), rng.choice([5, 6000])) + 1))
        wanted = np.lexsort((np.arange(len(values)), -values))[:count]
        np.testing.assert_array_equal(largest(values, count), np.sort(wanted))


def test_the_heaviest_are_the_fewest_that_reach_their_share():
    for values, rng in rows(300):
        weights, share = np.exp(values - values.max()), float(rng.uniform(0.01, 0.999))
        order = np.lexsort((np.arange(len(weights)), -weights))
        found = heaviest(weights, share)
        np.testing.assert_array_equal(found, np.sort(order[: len(found)]))
        mass = weights[found].sum(dtype=np.float64) / weights.sum(dtype=np.float64)
        assert mass >= share - 1e-5
        assert mass - weights[found].min() / weights.sum(dtype=np.float64) <= share + 1e-5


@pytest.mark.parametrize("vocab", [49_152, 128_256])
def test_a_large_vocabulary_is_no_special_case(vocab):
    values = np.random.default_rng(vocab).normal(size=vocab).astype(np.float32)
    for count in (1, 20, 500, vocab // 3, vocab):
        np.testing.assert_array_equal(largest(values, count), np.sort(np.argsort(-values, kind="stable")[:count]))
