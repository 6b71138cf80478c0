"""Each way of running a graph gives what NumPy computes without cache or batch."""

import numpy as np
import onnx_ir as ir
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.runtime.foreign.in_place import InPlaceSession
from narthex_server.runtime.foreign.padded import PaddedSession
from narthex_server.runtime.foreign.single import SingleSession

NONE, ONE = np.zeros(0, np.int64), np.zeros(1, np.int64)
LAYOUTS = {
    "padded": (PaddedSession, {}),
    "padded conv": (PaddedSession, {"conv": 4}),
    "padded int32": (PaddedSession, {"integers": ir.DataType.INT32}),
    "padded last logits": (PaddedSession, {"keep": True}),
    "padded float16": (PaddedSession, {"dtype": ir.DataType.FLOAT16}),
    "in place": (InPlaceSession, {"in_place": True}),
    "in place conv": (InPlaceSession, {"in_place": True, "conv": 3}),
    "in place last logits": (InPlaceSession, {"in_place": True, "keep": True}),
    "in place float16": (InPlaceSession, {"in_place": True, "dtype": ir.DataType.FLOAT16}),
    "single": (SingleSession, {"positions": False}),
    "single conv": (SingleSession, {"positions": False, "conv": 4}),
}


@pytest.fixture(params=LAYOUTS)
def pair(request, decoder, opened):
    """A decoder, and the session that was chosen for its graph."""
    kind, options = LAYOUTS[request.param]
    reference = decoder(**options)
    session = opened(reference)
    assert type(session) is kind
    return reference, session


def check(reference, got, ids, last=1):
    tolerance = 2e-2 if reference.dtype == ir.DataType.FLOAT16 else 1e-5
    np.testing.assert_allclose(got, reference.logits(ids)[-last:], rtol=0, atol=tolerance)


def test_prompts_whole_and_in_chunks(pair):
    reference, session = pair
    ids = np.arange(40) * 5 % 37
    check(reference, session.prefill(0, ids, 0, np.arange(40), 40), ids, 40)
    past = 0
    for size in (1, 3, 20, 16):
        rows = np.arange(size)[-2:]
        logits = session.prefill(1, ids[past : past + size], past, rows, 40)
        past += size
        check(reference, logits, ids[:past], len(rows))


def test_ragged_rows_that_come_and_go(pair):
    reference, session = pair
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 37, size).tolist() for size in (21, 1, 9)]
    for slot, text in enumerate(texts):
        session.prefill(slot, np.array(text), 0, NONE, len(text))
    for live in ([0, 1, 2], [0, 1, 2], [2], [2, 0], [2, 0], [1], [0, 1, 2], [0, 1, 2]):
        tokens = rng.integers(0, 37, 3)
        lengths = np.array([len(text) for text in texts], np.int32)
        logits = session.decode(0, tokens, lengths, np.array(live))
        assert logits.shape == (len(live), 37) and logits.dtype == np.float32
        for row, slot in zip(logits, live, strict=True):
            texts[slot].append(int(tokens[slot]))
            check(reference, row[None], texts[slot])


def test_a_prompt_between_steps_and_a_slot_that_begins_again(pair):
    reference, session = pair
    rng = np.random.default_rng(2)
    texts = {0: rng.integers(0, 37, 12).tolist(), 1: rng.integers(0, 37, 5).tolist()}
    for slot, text in texts.items():
        session.prefill(slot, np.array(text), 0, NONE, len(text))
    for step in range(3):
        tokens = rng.integers(0, 37, 2)
        lengths = np.array([len(texts[slot]) for slot in (0, 1)], np.int32)
        logits = session.decode(0, tokens, lengths, np.arange(2)).copy()
        for slot in (0, 1):
            texts[slot].append(int(tokens[slot]))
            check(reference, logits[[slot]], texts[slot])
        session.prefill(2, tokens, 2 * step, NONE, 6)
    session.release(1)
    check(reference, session.decode(1, np.array([4]), np.array([0], np.int32), ONE), [4])
    check(reference, session.decode(1, np.array([6]), np.array([1], np.int32), ONE), [4, 6])
    check(reference, session.decode(0, np.array([3]), np.array([15], np.int32), ONE), [*texts[0], 3])


def test_copies_and_saved_states(pair):
    reference, session = pair
    ids = np.arange(20) * 3 % 37
    session.prefill(0, ids[:15], 0, NONE, 20)
    saved = session.save(0)
    session.copy(0, 2, 15)
    session.prefill(0, ids[:9], 0, NONE, 9)
    check(reference, session.prefill(2, ids[15:], 15, np.array([4]), 20), ids)
    session.restore(2, saved)
    check(reference, session.decode(2, np.array([8]), np.array([15], np.int32), ONE), [*ids[:15], 8])
    assert session.prefix_class(3) == session.prefix_class(50)


def test_tokens_beyond_a_slot_are_refused_before_anything_is_written(pair):
    _, session = pair
    with pytest.raises(ValueError, match="65 tokens do not fit a slot of 64"):
        session.prefill(0, np.arange(5), 60, NONE, 65)
    with pytest.raises(ValueError, match="65 tokens do not fit"):
        session.decode(0, np.array([1]), np.array([64], np.int32), ONE)
    assert session.decode(0, NONE, NONE.astype(np.int32), NONE).shape == (0, 37)
    assert session.prefill(0, NONE, 0, NONE, 0).shape == (0, 37)


def test_a_slot_can_be_used_to_its_last_token(pair):
    reference, session = pair
    ids = np.arange(63) % 37
    session.prefill(1, ids, 0, NONE, 63)
    check(reference, session.decode(1, np.array([1]), np.array([63], np.int32), ONE), [*ids, 1])


def test_what_the_runtime_refuses_is_refused_with_its_reason(opened, decoder, tmp_path):
    class Cut(decoder):
        def save(self, path):
            super().save(path)
            path.write_bytes(path.read_bytes().replace(b"Softmax", b"Softmix"))

    with pytest.raises(InvalidModelFile, match=r"cannot run the graph: .*Softmix"):
        opened(Cut())


def test_one_slot_is_enough(opened, decoder):
    session = opened(decoder(), slots=1, max_len=16)
    reference = decoder()
    check(reference, session.prefill(0, np.arange(5), 0, np.array([4]), 5), np.arange(5))
