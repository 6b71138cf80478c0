"""Compute int8 and caches of int8 against the reference: how far the distribution of the next token moves."""

import numpy as np
import pytest
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.crossing import WIDTHS

FAMILIES = ["llama", "mistral_swa", "qwen2", "qwen3", "phi3", "gemma2", "granite", "lfm2", "qwen3_moe"]
QUANTISED = ["gguf_llama/tiny-llama-Q4_0.gguf", "gguf_qwen3/tiny-qwen3-Q8_0.gguf"]
ONE = np.zeros(1, np.int64)
SLOTS = WIDTHS[-1]
"""So many rows are computed by the graph for many tokens, whatever the machine."""
CLOSE = 0.02
"""Mean Kullback-Leibler divergence in nats; the worst of these is 0.008, and Q4_0's own int8 activations make 0.005."""


def mean_divergence(session, prompts):
    found = []
    for prompt in prompts:
        length = len(prompt.ids)
        logits = [*session.prefill(1, prompt.ids, 0, np.arange(prompt.start, length), length)]
        for step, token in enumerate(prompt.greedy[:-1]):
            logits += [session.decode(1, np.array([token]), np.array([length + step], np.int32), ONE)[0].copy()]
        wanted = np.concatenate((prompt.logits, prompt.decode_logits[1:])).astype(np.float64)
        p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (wanted, np.array(logits, np.float64)))
        found.append((np.exp(p) * (p - q)).sum(axis=-1))
    return np.concatenate(found).mean()


@pytest.fixture(scope="module")
def load_so(tmp_path_factory, golden_dir):
    folder = tmp_path_factory.mktemp("graphs")

    def get(model, compute, kv="float32"):
        return load(
            golden_dir / model, LoadOptions(compute, threads=2, slots=SLOTS, max_context=256, cache_dir=folder, kv=kv)
        )

    return get


@pytest.mark.parametrize("model", FAMILIES + QUANTISED)
def test_whole_channels_as_int8_stay_close_to_the_reference(model, load_so, prompts_of):
    loaded = load_so(model, "int8")
    assert loaded.compute == "int8"
    assert mean_divergence(loaded.session, prompts_of(model)) < CLOSE
    loaded.session.close()


@pytest.mark.parametrize("model", FAMILIES)
def test_caches_of_int8_stay_close_to_the_reference(model, load_so, prompts_of):
    session = load_so(model, "float32", "int8").session
    assert mean_divergence(session, prompts_of(model)) < CLOSE
    session.close()


def test_what_else_is_in_a_batch_does_not_change_how_a_token_is_rounded(load_so, prompts_of):
    session = load_so("llama", "int8").session
    prompt = prompts_of("llama")[0]
    length = len(prompt.ids)
    for slot in range(SLOTS):
        session.prefill(slot, prompt.ids, 0, ONE, length)
    lengths, tokens = np.full(SLOTS, length, np.int32), np.full(SLOTS, prompt.greedy[0])
    alike = session.decode(0, tokens, lengths, np.arange(SLOTS)).copy()
    tokens[1:] += np.arange(1, SLOTS)
    among_others = session.decode(0, tokens, lengths, np.arange(SLOTS)).copy()
    np.testing.assert_array_equal(among_others[0], alike[0])
    assert not np.array_equal(among_others[1], alike[1])
    session.close()
