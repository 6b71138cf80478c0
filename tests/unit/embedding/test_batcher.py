from itertools import chain

import numpy as np
from narthex_server.embedding.batcher import Batcher, Job
from narthex_server.embedding.head import Pooling


def job(key: int, *lengths: int) -> Job:
    texts = [np.zeros(length, np.int64) for length in lengths]
    return Job(key, texts, Pooling.MEAN, np.zeros((len(lengths), 1), np.float32))


def batches(batcher: Batcher) -> list[list[tuple[int, int]]]:
    """Every batch until there is nothing left, as keys and lengths."""
    found = []
    while batcher:
        found.append([(one.key, one.length(index)) for one, index in batcher.next()])
    return found


def test_texts_of_about_one_length_are_encoded_together():
    batcher = Batcher(1000, alone=False)
    batcher.add(job(0, 10, 100, 99, 9, 60, 8))
    assert [sorted(length for _, length in batch) for batch in batches(batcher)] == [[99, 100], [60], [8, 9, 10]]


def test_a_batch_keeps_to_its_budget_with_its_padding():
    batcher = Batcher(100, alone=False)
    batcher.add(job(0, *[20] * 7, 19, 300))
    found = batches(batcher)
    assert [len(batch) for batch in found] == [1, 5, 3]
    assert all(len(batch) * max(length for _, length in batch) <= 100 for batch in found[1:])


def test_a_small_request_waits_for_one_batch_of_a_large_one():
    batcher = Batcher(100, alone=False)
    batcher.add(job(0, *[50] * 20))
    batcher.add(job(1, 3))
    assert [batch[0][0] for batch in batches(batcher)[:3]] == [0, 1, 0]


def test_requests_share_a_batch():
    batcher = Batcher(100, alone=False)
    batcher.add(job(0, 10, 4))
    batcher.add(job(1, 9, 11))
    assert sorted((one.key, one.length(index)) for one, index in batcher.next()) == [(0, 10), (1, 9)]


def test_each_text_is_taken_exactly_once():
    rng = np.random.default_rng(0)
    batcher, wanted = Batcher(64, alone=False), []
    for key in range(5):
        lengths = rng.integers(1, 80, 30).tolist()
        wanted += [(key, length) for length in lengths]
        batcher.add(job(key, *lengths))
    assert sorted(chain(*batches(batcher))) == sorted(wanted)


def test_what_is_removed_is_not_encoded():
    batcher = Batcher(100, alone=False)
    batcher.add(job(0, 5, 50))
    batcher.add(job(1, 7))
    batcher.next()
    batcher.remove(0)
    assert batches(batcher) == [[(1, 7)]]


def test_texts_that_have_to_be_alone_are():
    batcher = Batcher(100, alone=True)
    batcher.add(job(0, 5, 5, 5))
    assert [len(batch) for batch in batches(batcher)] == [1, 1, 1]
