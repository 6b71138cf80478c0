import numpy as np
import pytest

NONE, ONE, BOTH = np.arange(0), np.arange(1), np.arange(2)


def test_prefill_without_rows_only_fills_the_slot(open_session):
    session = open_session(2, 64)
    assert session.prefill(0, np.arange(5), 0, NONE, 16).shape == (0, session.vocab_size)
    assert session.prefill(1, np.arange(5), 0, np.array([4]), 16).shape == (1, session.vocab_size)
    step = np.array([5], np.int32)
    one = session.decode(0, np.array([7]), step, ONE).copy()
    np.testing.assert_array_equal(one, session.decode(1, np.array([7]), step, ONE))


def test_a_batch_of_none_is_answered_without_the_kernel(open_session):
    session = open_session(1, 64)
    assert session.decode(0, NONE, np.arange(0, dtype=np.int32), NONE).shape == (0, session.vocab_size)
    assert session.prefill(0, NONE, 0, NONE, 16).shape == (0, session.vocab_size)


def test_tokens_beyond_a_slot_are_refused_before_anything_is_written(open_session):
    session = open_session(2, 16)
    with pytest.raises(ValueError, match="17 tokens do not fit a slot of 16"):
        session.prefill(0, np.arange(9), 8, NONE, 16)
    with pytest.raises(ValueError, match="17 tokens do not fit"):
        session.decode(0, np.array([1, 1]), np.array([3, 16], np.int32), BOTH)
    with pytest.raises(ValueError, match="slots 1 to 2 of 2"):
        session.decode(1, np.array([1, 1]), np.array([3, 3], np.int32), BOTH)


def test_a_slot_can_be_used_to_its_last_token(open_session):
    session = open_session(1, 16)
    session.prefill(0, np.arange(15), 0, NONE, 16)
    assert np.isfinite(session.decode(0, np.array([1]), np.array([15], np.int32), ONE)).all()


def test_a_released_slot_serves_again(open_session):
    session = open_session(2, 512)
    prompt, last = np.arange(200), np.array([199])
    first = session.prefill(0, prompt, 0, last, 16).copy()
    session.prefill(1, prompt, 0, NONE, 16)
    session.release(0)
    np.testing.assert_array_equal(session.prefill(0, prompt, 0, last, 16), first)
    session.release(0)
    step = np.array([200], np.int32)
    alone = session.decode(1, np.array([3]), step, ONE).copy()  # the neighbour's tokens are untouched
    session.prefill(0, prompt, 0, NONE, 16)
    np.testing.assert_array_equal(session.decode(0, np.array([3]), step, ONE), alone)


def test_shapes_may_change_many_times(open_session):
    session = open_session(4, 256)
    want = session.prefill(0, np.arange(10), 0, np.array([9]), 16).copy()
    for length in range(1, 80):
        session.prefill(1, np.arange(length), 0, np.array([length - 1]), 16)
    np.testing.assert_array_equal(session.prefill(0, np.arange(10), 0, np.array([9]), 16), want)
