"""Packed graphs, and the session's bookkeeping, against the reference implementation's logits."""

import numpy as np
import pytest
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.paged.packer import Chunks, Packer
from narthex_server.runtime.paged.session import PagedDecoderSession
from narthex_server.runtime.session import Shape

FOLDERS = [
    "llama", "llama3_rope_tied", "mistral_swa", "qwen2", "qwen3", "phi3", "phi3_longrope", "gemma", "gemma2", "gemma3",
    "granite", "smollm3", "olmo2", "starcoder2",
]  # fmt: skip
IN_HALF = [
    "qwen3", "gemma2", "phi3_longrope", "starcoder2",
    "gguf_llama/tiny-llama-Q8_0.gguf", "gguf_llama/tiny-llama-Q4_0.gguf",
    "gguf_qwen2_k256/tiny-qwen2-k256-Q4_K_M.gguf", "gguf_qwen3_k256/tiny-qwen3-k256-Q6_K.gguf",
]  # fmt: skip
EXACT = 1e-3
DIVERGENCE = {"float16": 1e-3, "bfloat16": 3e-2}
"""How far, in nats, any row's distribution may be from that in float32; the worst of 19 models are 3e-4 and 2.1e-2."""
CLEAR = 0.5
"""How much the best logit of a row is above the next where rounding may not change which it is."""
SHAPE = Shape(slots=4, max_len=256, threads=1)


def served(session, prompts, steps):
    """Logits of each prompt in chunks of several sizes, then of `steps` steps of all of them together."""
    got = [[] for _ in prompts]
    for slot, prompt in enumerate(prompts):
        past, length = 0, len(prompt.ids)
        for size in (5, 40, length):
            chunk = prompt.ids[past : past + size]
            rows = np.arange(max(prompt.start - past, 0), len(chunk))
            got[slot].append(session.prefill(slot, chunk, past, rows, length))
            past += len(chunk)
    lengths = np.array([len(prompt.ids) for prompt in prompts], np.int32)
    for step in range(steps):
        tokens = np.array([prompt.greedy[step] for prompt in prompts])
        together = session.decode(0, tokens, lengths + np.int32(step), np.arange(len(prompts)))
        for slot in range(len(prompts)):
            got[slot].append(together[[slot]])
    return [np.concatenate(logits) for logits in got]


def wanted(prompt, steps):
    return np.concatenate((prompt.logits, prompt.decode_logits[1 : 1 + steps]))


def divergence(got, reference):
    """Kullback-Leibler divergence of each row, from the reference."""
    ours, theirs = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (got, reference))
    return (np.exp(theirs) * (theirs - ours)).sum(axis=-1)


def check_close(session, prompts, compute):
    steps = len(prompts[0].greedy) - 1
    for got, prompt in zip(served(session, prompts, steps), prompts, strict=True):
        expected = wanted(prompt, steps)
        assert divergence(got, expected).max() < DIVERGENCE[compute], prompt.name
        best = np.sort(expected, axis=-1)
        clear = best[:, -1] - best[:, -2] > CLEAR
        assert (got.argmax(axis=-1) == expected.argmax(axis=-1))[clear].all(), prompt.name


@pytest.mark.parametrize("model", FOLDERS)
def test_float32_gives_the_reference_logits(model, reference, prompts_of):
    prompts = prompts_of(model)[:3]
    steps = len(prompts[0].greedy) - 1
    for got, prompt in zip(
        served(PagedDecoderSession(reference(model, "float32"), SHAPE), prompts, steps), prompts, strict=True
    ):
        np.testing.assert_allclose(got, wanted(prompt, steps), rtol=0, atol=EXACT, err_msg=prompt.name)


@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
@pytest.mark.parametrize("model", IN_HALF)
def test_half_types_give_nearly_the_reference_distribution(model, compute, reference, prompts_of):
    check_close(PagedDecoderSession(reference(model, compute), SHAPE), prompts_of(model)[:3], compute)


@pytest.mark.gpu
@pytest.mark.parametrize("compute", ["float16", "bfloat16"])
@pytest.mark.parametrize("model", sorted({*FOLDERS, *IN_HALF}))
def test_a_gpu_gives_nearly_the_reference_distribution(model, compute, golden_dir, tmp_path, prompts_of):
    options = LoadOptions(compute, slots=4, max_context=256, cache_dir=tmp_path, device="cuda")
    session = load(golden_dir / model, options).session
    try:
        check_close(session, prompts_of(model)[:3], compute)
    finally:
        session.close()


def test_a_prompt_and_running_sequences_go_in_one_step(reference, prompts_of):
    graph = reference("llama", "float32")
    session = PagedDecoderSession(graph, SHAPE)
    short, long, chat = prompts_of("llama")[:3]
    session.prefill(1, short.ids, 0, np.arange(0), len(short.ids))
    session.prefill(3, long.ids, 0, np.arange(0), len(long.ids))
    past = np.array([len(short.ids), len(long.ids), 0])
    tokens = np.concatenate(([short.greedy[0], long.greedy[0]], chat.ids))
    chunks = Chunks(tokens, np.array([1, 1, len(chat.ids)]), np.array([1, 3, 0]), past, past + 1)
    packer = Packer(session._blocks, SHAPE.max_len, SHAPE.max_len)
    logits = graph.run(packer.pack(chunks, np.array([0, 1, len(tokens) - 1])), repeats=False, best=False).logits()
    reference_rows = np.stack((short.decode_logits[1], long.decode_logits[1], chat.logits[-1]))
    np.testing.assert_allclose(logits, reference_rows, rtol=0, atol=EXACT)


def test_rows_that_are_not_live_cost_nothing_and_stay_as_they_are(reference, prompts_of):
    graph = reference("llama", "float32")
    session, ids = PagedDecoderSession(graph, SHAPE), prompts_of("llama")[1].ids
    for slot in range(4):
        session.prefill(slot, ids[:30], 0, np.arange(0), 31)
    before = {name: cache.copy() for name, cache in graph.caches.items()}
    logits = session.decode(0, ids[[30] * 4], np.full(4, 30, np.int32), np.array([0, 2, 3]))
    alone = PagedDecoderSession(reference("llama", "float32"), SHAPE).prefill(0, ids[:31], 0, np.array([30] * 3), 31)
    np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-4)
    per_slot = session._blocks.per_slot
    for name, cache in graph.caches.items():
        np.testing.assert_array_equal(cache[per_slot : 2 * per_slot], before[name][per_slot : 2 * per_slot])
    assert graph.shapes_that_repeat == {(1, 4, 4, per_slot)}


def test_the_best_logits_are_those_of_all(reference, prompts_of):
    session, ids = PagedDecoderSession(reference("qwen2", "float32"), SHAPE), prompts_of("qwen2")[1].ids
    for slot in (0, 1):
        session.prefill(slot, ids[: 40 + slot], 0, np.arange(0), 50)
    step = (0, ids[[40, 41]], np.array([40, 41], np.int32), np.arange(2))
    logits, best = session.decode(*step).copy(), session.decode_best(*step)
    assert best.tokens.shape == (2, 64)
    np.testing.assert_array_equal(best.logits, np.take_along_axis(logits, best.tokens, axis=1))
    np.testing.assert_array_equal(best.logits, -np.sort(-logits, axis=1)[:, :64])


def test_a_copied_prefix_continues_as_its_source(reference, prompts_of):
    session, prompt = PagedDecoderSession(reference("llama", "float32"), SHAPE), prompts_of("llama")[1]
    session.prefill(0, prompt.ids, 0, np.arange(0), len(prompt.ids))
    session.copy(0, 3, 60)
    logits = session.prefill(3, prompt.ids[60:], 60, np.array([len(prompt.ids) - 61]), len(prompt.ids))
    np.testing.assert_allclose(logits[0], prompt.logits[-1], rtol=0, atol=EXACT)


def test_nothing_to_do_is_done_without_a_step(reference):
    session = PagedDecoderSession(reference("llama", "float32"), SHAPE)
    nothing = np.arange(0)
    assert session.decode(0, nothing, nothing.astype(np.int32), nothing).shape == (0, session.vocab_size)
    assert session.prefill(0, nothing, 0, nothing, 0).shape == (0, session.vocab_size)
    with pytest.raises(ValueError, match="257 tokens do not fit a slot of 256"):
        session.prefill(0, np.zeros(2, np.int64), 255, nothing, 257)
