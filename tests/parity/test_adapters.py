"""LoRA and X-LoRA against PEFT's own outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.weights.adapters import read_adapter
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parent.parent / "golden"
BASES = {"lora_llama": "llama", "lora_qwen2": "qwen2"}
NAMES = ("adapter_a", "adapter_b")
ONE = np.zeros(1, np.int64)
EXACT = 1e-3
NONE, BOTH = np.zeros(3, np.float32), {name: np.eye(3, dtype=np.float32)[at] for at, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module", params=BASES)
def adapted(request, cache):
    """A base with both of its adapters loaded, and the reference runs."""
    options = LoadOptions("float32", 2, slots=4, max_context=256, cache_dir=cache, adapters=Limits(3, 16))
    session = load(GOLDEN / BASES[request.param], options).session
    for place, name in enumerate(NAMES):
        adapter = read_adapter(GOLDEN / request.param / name)
        session.adapters.check(adapter)
        session.adapters.load(place, adapter)
    folder = GOLDEN / request.param
    yield session, json.loads((folder / "golden.json").read_text())["runs"], load_file(folder / "golden.safetensors")
    session.close()


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_gives_the_reference_logits_and_tokens(adapted, name):
    session, runs, tensors = adapted
    session.adapters.choose(0, BOTH[name])
    for prompt in runs[name]["prompts"] if isinstance(runs[name], dict) else runs[name]:
        ids, start = np.array(prompt["input_ids"]), prompt.get("logits_start") or 0
        length = len(ids)
        logits = session.prefill(0, ids, 0, np.arange(start, length), length)
        np.testing.assert_allclose(logits, tensors[prompt["tensors"]["logits"]], rtol=0, atol=EXACT)
        row, chosen = logits[-1], []
        for step, token in enumerate(prompt["greedy_ids"]):
            wanted = tensors[prompt["tensors"]["decode_logits"]][step]
            np.testing.assert_allclose(row, wanted, rtol=0, atol=EXACT)
            chosen.append(int(row.argmax()))
            row = session.decode(0, np.array([token]), np.array([length + step], np.int32), ONE)[0]
        assert chosen == prompt["greedy_ids"]


def test_rows_with_different_adapters_and_none_share_a_batch(adapted):
    session, runs, _ = adapted
    ids = np.array(runs["adapter_a"][1]["input_ids"])
    blends = [NONE, BOTH["adapter_a"], BOTH["adapter_b"], np.array([0.5, -0.25, 0], np.float32)]
    lengths = np.array([40, 21, 33, 50], np.int32)
    for slot, (blend, length) in enumerate(zip(blends, lengths.tolist(), strict=True)):
        session.adapters.choose(slot, blend)
        session.prefill(slot, ids[:length], 0, np.arange(0), length)
    together = session.decode(0, ids[lengths], lengths, np.arange(4)).copy()
    for slot, length in enumerate(lengths.tolist()):
        alone = session.decode(slot, ids[[length]], lengths[[slot]], ONE)
        np.testing.assert_allclose(together[[slot]], alone, rtol=0, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_an_unloaded_adapter_leaves_nothing_behind(adapted):
    session, runs, _ = adapted
    ids = np.array(runs["adapter_a"][0]["input_ids"])
    last = np.array([len(ids) - 1])
    session.adapters.choose(0, NONE)
    base = session.prefill(0, ids, 0, last, len(ids)).copy()
    session.adapters.choose(0, np.array([0, 0, 1], np.float32))  # an empty place
    np.testing.assert_allclose(session.prefill(0, ids, 0, last, len(ids)), base, rtol=0, atol=1e-5)
    third = read_adapter(GOLDEN / "lora_llama" / "adapter_a")
    if session.vocab_size == 512:
        session.adapters.load(2, third)
        assert np.abs(session.prefill(0, ids, 0, last, len(ids)) - base).max() > 0.1
        session.adapters.unload(2)
        np.testing.assert_allclose(session.prefill(0, ids, 0, last, len(ids)), base, rtol=0, atol=1e-5)


@pytest.fixture(scope="module", params=["xlora", "xlora_legacy"])
def xlora(request, cache):
    options = LoadOptions(
        "float32", 2, slots=3, max_context=256, cache_dir=cache, xlora=GOLDEN / "xlora_llama" / request.param
    )
    session = load(GOLDEN / "llama", options).session
    folder = GOLDEN / "xlora_llama"
    yield session, json.loads((folder / "golden.json").read_text())["prompts"], load_file(folder / "golden.safetensors")
    session.close()


def test_xlora_gives_the_reference_scalings_logits_and_tokens(xlora):
    session, prompts, tensors = xlora
    for prompt in prompts:
        ids, start = np.array(prompt["input_ids"]), prompt.get("logits_start") or 0
        length = len(ids)
        logits = session.prefill(0, ids, 0, np.arange(start, length), length)
        np.testing.assert_allclose(logits, tensors[prompt["tensors"]["logits"]], rtol=0, atol=2e-3)
        row = logits[-1]
        for step, token in enumerate(prompt["greedy_ids_nocache"]):
            wanted = tensors[prompt["tensors"]["decode_logits"]][step]
            np.testing.assert_allclose(row, wanted, rtol=0, atol=2e-3)
            assert int(row.argmax()) == token
            row = session.decode(0, np.array([token]), np.array([length + step], np.int32), ONE)[0]
