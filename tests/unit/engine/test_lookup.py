import numpy as np
import pytest
from narthex_server.engine.lookup import MOST, Lookup


def text(*ids):
    return np.array(ids, np.int64)


def test_what_followed_the_same_three_tokens_last_is_proposed():
    assert Lookup().propose(text(1, 2, 3, 4, 5, 9, 2, 3, 7, 1, 2, 3), 2) == [4, 5]


def test_two_tokens_do_where_three_were_never_seen_and_the_latest_place_counts():
    assert Lookup().propose(text(0, 2, 3, 4, 5, 2, 3, 7, 8, 2, 3), 2) == [7, 8]


@pytest.mark.parametrize("ids", [(), (1,), (1, 1), (1, 2, 3, 4, 5)])
def test_a_text_that_repeats_nothing_gives_no_draft(ids):
    assert Lookup().propose(text(*ids), MOST) == []


def test_a_repetition_is_continued_beyond_what_is_written():
    assert Lookup().propose(text(7, 1, 2, 3, 1, 2, 3, 1, 2), 8) == [3, 1, 2, 3, 1, 2, 3, 1]


def test_a_text_that_grows_gives_what_the_whole_text_gives():
    rng = np.random.default_rng(0)
    ids, growing, end = rng.integers(4, size=300), Lookup(), 0
    while end < 300:
        end += int(rng.integers(1, 9))
        assert growing.propose(ids[:end], 5) == Lookup().propose(ids[:end], 5)


def test_token_zero_and_large_ids_are_no_exception():
    assert Lookup().propose(text(0, 0, 0, 5, 0, 0), 1) == [5]
    assert Lookup().propose(text(262_143, 0, 262_143, 9, 1, 0, 262_143), 1) == [9]


def test_the_chance_follows_what_was_tried_and_what_was_only_guessed():
    lookup = Lookup()
    start = lookup.chance
    lookup.tried([1, 2, 3], 3)
    risen = lookup.chance
    lookup.tried([1, 2, 3], 0)
    assert start < risen and lookup.chance < risen
    before = lookup.chance
    lookup.propose(text(9, 1, 2, 3, 1, 2), 4)
    lookup.propose(text(9, 1, 2, 3, 1, 2, 3), 4)  # the first guess was right
    assert lookup.chance > before
    before = lookup.chance
    lookup.propose(text(9, 1, 2, 3, 1, 2, 3, 9), 4)
    assert lookup.chance < before
