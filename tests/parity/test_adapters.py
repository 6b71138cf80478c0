"""LoRA and X-LoRA against PEFT's own outputs."""

import json
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from narthex_server.errors import FailedPrecondition, InvalidModelFile
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.weights.adapters import read_adapter
from safetensors.numpy import load_file, save_file

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


def test_nothing_is_held_for_steps_with_adapters_that_were_unloaded(adapted):
    session, _, _ = adapted
    session.adapters.choose(0, np.array([1, 0, 0], np.float32))
    session.prefill(0, np.arange(9), 0, np.arange(1), 9)
    bound = weakref.ref(session.adapters.bank.inputs([0]).buffers["ranks.self_attn.q_proj"])
    session.adapters.load(
        2, read_adapter(GOLDEN / ("lora_llama" if session.vocab_size == 512 else "lora_qwen2") / "adapter_a")
    )
    session.adapters.unload(2)
    assert bound() is None


@pytest.fixture(scope="module", params=["xlora", "xlora_legacy"])
def xlora(request, cache):
    options = LoadOptions(
        "float32", 2, slots=3, max_context=256, cache_dir=cache, xlora=GOLDEN / "xlora_llama" / request.param
    )
    session = load(GOLDEN / "llama", options).session
    folder = GOLDEN / "xlora_llama"
    yield session, json.loads((folder / "golden.json").read_text())["prompts"], load_file(folder / "golden.safetensors")
    session.close()


def test_a_model_with_an_xlora_says_what_it_computes_as_whatever_was_asked(cache):
    options = LoadOptions(
        "int8", 2, slots=1, max_context=32, cache_dir=cache, xlora=GOLDEN / "xlora_llama" / "xlora", kv="int8"
    )
    loaded = load(GOLDEN / "llama", options)
    loaded.session.close()
    assert loaded.compute == "float32"


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


def test_xlora_rows_of_a_batch_and_chunks_of_a_prompt_give_what_they_give_alone(xlora, in_chunks):
    session, prompts, _ = xlora
    ids = np.array(prompts[1]["input_ids"])
    whole = session.prefill(0, ids, 0, np.arange(len(ids)), len(ids)).copy()
    np.testing.assert_allclose(in_chunks(session, 1, ids), whole, rtol=0, atol=1e-4)
    lengths = np.array([30, 0, 50], np.int32)
    for slot, length in enumerate(lengths.tolist()):
        session.prefill(slot, ids[:length], 0, np.arange(0), length)
    together = session.decode(0, ids[lengths], lengths, np.array([0, 2])).copy()
    np.testing.assert_allclose(together, whole[lengths[[0, 2]]], rtol=0, atol=1e-4)
    session.copy(2, 1, 50)
    copied = session.decode(1, ids[[50]], lengths[[2]], ONE)
    np.testing.assert_allclose(copied, whole[[50]], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "blend"),
    [
        ({}, [0.7310586, 0.2689414]),
        ({"softmax_temperature": 0.5}, [0.8807971, 0.1192029]),
        ({"enable_softmax": False}, [1.0, 0.0]),
        ({"global_scaling_weight": 3.0}, [2.1931758, 0.8068242]),
        ({"top_k_lora": 1}, [0.7310586, 0.0]),
        ({"top_k_lora": 1, "enable_softmax_topk": True}, [1.0, 0.0]),
    ],
    ids=str,
)
def test_xlora_settings_mean_what_constant_scalings_show(tmp_path, cache, options, blend):
    """A classifier that gives every token the logits 1 and 0 is plain LoRA with the scalings that follow from them."""
    source = GOLDEN / "xlora_llama"
    for name in ("expert_0", "expert_1"):
        (tmp_path / name).symlink_to(source / name)
    folder = tmp_path / "xlora"
    folder.mkdir()
    config = json.loads((source / "xlora" / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"layerwise_scalings": False} | options))
    prefix = "base_model.internal_xlora_classifier.layers.0"
    layer = {f"{prefix}.weight": np.zeros((2, 64), np.float32), f"{prefix}.bias": np.array([1, 0], np.float32)}
    save_file(layer, folder / "adapter_model.safetensors")

    def session(**more):
        return load(
            GOLDEN / "llama", LoadOptions("float32", 2, slots=2, max_context=64, cache_dir=cache, **more)
        ).session

    mixed, plain = session(xlora=folder), session(adapters=Limits(2, 8))
    for place in range(2):
        plain.adapters.load(place, read_adapter(source / f"expert_{place}"))
    plain.adapters.choose(0, np.array(blend, np.float32))
    ids = np.arange(20, 40)
    got = mixed.prefill(0, ids, 0, np.arange(20), 20)
    np.testing.assert_allclose(got, plain.prefill(0, ids, 0, np.arange(20), 20), rtol=0, atol=1e-4)
    mixed.close()
    plain.close()


@pytest.mark.parametrize(
    ("hidden", "settings", "error", "match"),
    [
        (48, {}, FailedPrecondition, "classifier takes states of 48 numbers, the model's have 64"),
        (64, {"top_k_lora": -1}, InvalidModelFile, "top_k_lora is -1"),
        (64, {"softmax_temperature": -2}, InvalidModelFile, "softmax_temperature is -2"),
    ],
)  # fmt: skip
def test_an_xlora_that_cannot_work_is_refused_when_it_is_loaded(tmp_path, cache, hidden, settings, error, match):
    source, folder = GOLDEN / "xlora_llama", tmp_path / "xlora"
    for name in ("expert_0", "expert_1"):
        (tmp_path / name).symlink_to(source / name)
    folder.mkdir()
    config = json.loads((source / "xlora" / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"layerwise_scalings": False} | settings))
    weight = {"base_model.internal_xlora_classifier.layers.0.weight": np.zeros((2, hidden), np.float32)}
    save_file(weight, folder / "adapter_model.safetensors")
    with pytest.raises(error, match=match):
        load(GOLDEN / "llama", LoadOptions("float32", 2, slots=1, max_context=64, cache_dir=cache, xlora=folder))


def test_frozen_scalings_are_those_of_the_last_token_before(cache):
    def session(frozen):
        options = LoadOptions(
            "float32", 2, slots=2, max_context=64, cache_dir=cache,
            xlora=GOLDEN / "xlora_llama" / "xlora", xlora_frozen_after=frozen,
        )  # fmt: skip
        return load(GOLDEN / "llama", options).session

    thawed, frozen, ids = session(0), session(2), np.arange(30, 50)
    rows: dict[int, list[np.ndarray]] = {}
    for number, one in enumerate((thawed, frozen)):
        one.prefill(0, ids[:10], 0, np.arange(0), 10)
        rows[number] = [one.decode(0, ids[[at]], np.array([at], np.int32), ONE)[0].copy() for at in range(10, len(ids))]
    np.testing.assert_allclose(rows[1][:2], rows[0][:2], rtol=0, atol=1e-5)
    assert np.abs(rows[1][2] - rows[0][2]).max() > 1e-3
    assert frozen.prefix_class(10) != frozen.prefix_class(10)
    thawed.close()
    frozen.close()


def test_scalings_freeze_at_the_same_token_however_the_prompt_was_cut(cache):
    options = LoadOptions(
        "float32", 2, slots=3, max_context=64, cache_dir=cache,
        xlora=GOLDEN / "xlora_llama" / "xlora", xlora_frozen_after=2,
    )  # fmt: skip
    session, ids = load(GOLDEN / "llama", options).session, np.arange(30, 50)

    def decoded(slot, start):
        return [
            session.decode(slot, ids[[at]], np.array([at], np.int32), ONE)[0].copy() for at in range(start, len(ids))
        ]

    session.prefill(0, ids[:10], 0, np.arange(0), 10)
    session.prefill(1, ids[:9], 0, np.arange(0), 10)
    np.testing.assert_allclose(decoded(1, 9)[1:], decoded(0, 10), rtol=0, atol=1e-5)
    session.prefill(0, ids[:1], 0, np.arange(0), 1)
    np.testing.assert_allclose(decoded(2, 0)[1:], decoded(0, 1), rtol=0, atol=1e-5)
    session.close()


@pytest.mark.parametrize("pattern", [{}, {"alpha_pattern": {"q_proj": 16, r"layers\.1\.mlp\.up_proj": 2}}], ids=str)
@pytest.mark.parametrize("by_root", [False, True])
@pytest.mark.parametrize("base", ["qwen3", "llama3_rope_tied", "lfm2", "phi3", "gemma2"])
def test_an_adapter_is_the_model_with_its_product_added_to_the_weights(tmp_path, cache, base, by_root, pattern):
    """Any module, ranks that differ, embeddings and head: against a copy of the model with merged weights."""
    rng = np.random.default_rng(1)
    weights = {name: array.astype(np.float32) for name, array in load_file(GOLDEN / base / "model.safetensors").items()}
    projections = {
        name.removesuffix(".weight"): array
        for name, array in weights.items()
        if name.endswith("proj.weight") or ".feed_forward." in name or name == "lm_head.weight"
    }
    table = "model.embed_tokens"
    factors, config = {}, {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": by_root, **pattern}
    merged = dict(weights)
    for at, (module, weight) in enumerate([*projections.items(), (table, weights[f"{table}.weight"])]):
        rank = 2 + at % 4
        alpha = next((a for p, a in pattern.get("alpha_pattern", {}).items() if re.search(p + "$", module)), 8)
        scale = alpha / (rank**0.5 if by_root else rank)
        rows, columns = weight.shape[::-1] if module == table else weight.shape
        a = rng.normal(0, 0.1, (rank, columns)).astype(np.float32)
        b = rng.normal(0, 0.1, (rows, rank)).astype(np.float32)
        delta = scale * (b @ a)
        merged[f"{module}.weight"] = weight + (delta.T if module == table else delta)
        kind = "lora_embedding_" if module == table else "lora_"
        end = "" if module == table else ".weight"
        factors |= {f"base_model.model.{module}.{kind}A{end}": a, f"base_model.model.{module}.{kind}B{end}": b}
    if "lm_head.weight" not in weights:  # the adapter of a tied table changes the table alone
        merged["lm_head.weight"] = weights[f"{table}.weight"]
    adapter, model = tmp_path / "adapter", tmp_path / "model"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    save_file(factors, adapter / "adapter_model.safetensors")
    shutil.copytree(GOLDEN / base, model)
    save_file(merged, model / "model.safetensors")
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(fields | {"tie_word_embeddings": False}))

    options = LoadOptions("float32", 2, slots=2, max_context=64, cache_dir=cache)
    want = load(model, options).session
    got = load(GOLDEN / base, replace(options, adapters=Limits(2, 8))).session
    loaded = read_adapter(adapter)
    got.adapters.check(loaded)
    got.adapters.load(1, loaded)
    got.adapters.choose(0, np.array([0, 1], np.float32))
    ids = np.arange(60, 90)
    logits = got.prefill(0, ids, 0, np.arange(5, 30), 30)
    np.testing.assert_allclose(logits, want.prefill(0, ids, 0, np.arange(5, 30), 30), rtol=0, atol=2e-3)
    want.close()
    got.close()


@pytest.mark.parametrize("compute", ["float32", "auto"])
def test_adapters_and_xlora_work_on_quantised_weights(cache, compute):
    """Q8_0 moves the logits a little; an adapter moves them as it moves those of the float weights."""
    source, ids = GOLDEN / "xlora_llama", np.arange(20, 50)
    rows = np.arange(30)

    def session(**more):
        options = LoadOptions(compute, 2, slots=2, max_context=64, cache_dir=cache, quantize="q8_0", **more)
        model = load(GOLDEN / "llama", options)
        assert model.quantization == "Q8_0"
        return model.session

    exact = load(GOLDEN / "llama", LoadOptions("float32", 2, 2, 64, cache, adapters=Limits(2, 8))).session
    adapted, mixed = session(adapters=Limits(2, 8)), session(xlora=source / "xlora")
    expert = read_adapter(source / "expert_0")
    for one in (exact, adapted):
        one.adapters.load(0, expert)
    logits = {}
    for blend in (0, 1):
        for name, one in (("exact", exact), ("adapted", adapted)):
            one.adapters.choose(0, np.array([blend, 0], np.float32))
            logits[name, blend] = one.prefill(0, ids, 0, rows, 30).copy()
    assert np.abs(logits["exact", 1] - logits["exact", 0]).max() > 1
    for blend in (0, 1):
        assert np.abs(logits["adapted", blend] - logits["exact", blend]).max() < 0.9
    assert np.isfinite(mixed.prefill(0, ids, 0, rows, 30)).all()
    for one in (exact, adapted, mixed):
        one.close()
