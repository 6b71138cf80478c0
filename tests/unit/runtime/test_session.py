import numpy as np
import pytest
from narthex_server.runtime.pages import PAGE

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


def test_a_slot_that_is_cut_keeps_what_comes_before(open_session):
    session = open_session(2, 512)
    prompt, last = np.arange(400), np.array([399])
    want = session.prefill(0, prompt, 0, last, 400).copy()
    session.prefill(1, prompt, 0, NONE, 400)
    session.release(0, 123)
    np.testing.assert_allclose(session.prefill(0, prompt[123:], 123, last - 123, 400), want, atol=1e-4)
    np.testing.assert_array_equal(session.prefill(1, prompt[399:], 399, np.array([0]), 400).argmax(), want.argmax())


def test_a_cut_slot_gives_back_the_pages_of_what_it_forgets(open_session):
    session = open_session(1, 512)
    cached = session.cached(0, 512).values()
    for rows in cached:
        rows[:] = 1
    session.release(0, 100)
    for rows in cached:
        assert rows[:, :100].all()
        per_page = PAGE // rows[0, 0].nbytes
        assert not rows[:, 100 + per_page : -per_page].any()


def test_a_token_takes_a_key_and_a_value_in_every_layer(open_session):
    session = open_session(3, 64)
    assert session.token_bytes * 64 == sum(rows.nbytes for rows in session.cached(0, 64).values())


def test_runs_of_as_many_rows_share_their_output(open_session):
    session = open_session(2, 64)
    first = session.prefill(0, np.arange(9), 0, np.arange(9), 9)
    second = session.prefill(1, np.arange(9), 0, np.arange(9), 9)
    assert np.shares_memory(first, second)
