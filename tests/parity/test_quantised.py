"""Folders whose weights are quantised when they are loaded, or were by `narthex quantize`."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.loading import LoadOptions, load
from narthex_server.opening import open_model
from narthex_server.quantize import write_folder
from narthex_server.weights.kinds import KINDS
from narthex_server.weights.scheme import Scheme
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parent.parent / "golden"
IDS = np.array([1, 17, 300, 44, 5, 260, 9, 91, 400, 3, 77, 120], np.int64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random Llama of two layers with rows of 256 and 512, untied, in bfloat16, with some heavy-tailed weights."""
    folder = tmp_path_factory.mktemp("llama")
    for file in (GOLDEN / "llama").glob("*token*"):
        shutil.copy(file, folder)
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    hidden, inner, heads, kv, size, vocab = 256, 512, 8, 2, 32, config["vocab_size"]
    config |= {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": size,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(8)

    def matrix(rows, columns):
        return (0.7 * rng.standard_t(5, (rows, columns)) / columns**0.5).astype(ml_dtypes.bfloat16)

    tensors = {"model.embed_tokens.weight": matrix(vocab, hidden), "lm_head.weight": 2 * matrix(vocab, hidden)}
    tensors["model.norm.weight"] = np.ones(hidden, ml_dtypes.bfloat16)
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", heads * size, hidden), ("self_attn.k_proj", kv * size, hidden),
            ("self_attn.v_proj", kv * size, hidden), ("self_attn.o_proj", hidden, heads * size),
            ("mlp.gate_proj", inner, hidden), ("mlp.up_proj", inner, hidden), ("mlp.down_proj", hidden, inner),
        ):  # fmt: skip
            tensors[f"{prefix}{name}.weight"] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = np.ones(hidden, ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    cache = tmp_path_factory.mktemp("graphs")

    def options(compute="float32", quantize=None, topology=None):
        return LoadOptions(compute, 2, 1, 64, cache, quantize=quantize, topology=topology)

    return options


def logits(path, options):
    """The logits of all of IDS."""
    session = load(path, options).session
    result = session.prefill(0, IDS, 0, np.arange(len(IDS)), len(IDS)).copy()
    session.close()
    return result


@pytest.fixture(scope="module")
def exact(folder, options):
    return logits(folder, options())


BOUNDS = {
    "Q8_0": 0.04, "Q6_K": 0.1, "Q5_K": 0.18, "Q5_1": 0.2, "Q5_0": 0.24, "Q4_K": 0.36, "Q4_1": 0.4, "Q4_0": 0.45,
    "Q3_K": 0.7, "Q2_K": 1.2,
}  # fmt: skip
"""How much of their size the logits may change: several times the weights' own errors, as these weights are random."""


def test_every_format_runs_and_more_bits_change_the_logits_less(folder, options, exact):
    changes = {
        kind: np.linalg.norm(logits(folder, options(quantize=kind.lower())) - exact) / np.linalg.norm(exact)
        for kind in KINDS
        if kind in __import__("narthex_server.weights.formats", fromlist=["a"]).FORMATS
    }
    assert all(change < BOUNDS[kind] for kind, change in changes.items()), changes
    searched = [changes[kind] for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K") if kind in KINDS]
    assert searched == sorted(searched), changes


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_decoding_on_the_kernels_follows_the_same_weights_in_float32(folder, options, kind):
    steps = []
    for compute in ("auto", "float32"):
        model = load(folder, options(compute, kind.lower()))
        assert (model.compute, model.quantization) == ("block8" if compute == "auto" else "float32", kind)
        row = model.session.prefill(0, IDS, 0, np.array([len(IDS) - 1]), len(IDS))[0].copy()
        rows = [row]
        for step in range(8):
            token = int(rows[-1].argmax()) if compute == "auto" else int(steps[0][step].argmax())
            rows.append(
                model.session.decode(0, np.array([token]), np.array([len(IDS) + step], np.int32), np.arange(1))[
                    0
                ].copy()
            )
        steps.append(rows)
        model.session.close()
    difference = np.linalg.norm(np.subtract(*steps)) / np.linalg.norm(steps[1])
    assert difference < 0.06  # int8 activations


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q5_0"])
@pytest.mark.parametrize("compute", ["float32", "auto"])
def test_a_written_folder_gives_the_very_logits_of_quantising_on_load(folder, options, tmp_path, kind, compute):
    write_folder(open_model(folder), folder, tmp_path / "out", Scheme(kind), lambda done, total: None, 100_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    on_load = logits(folder, options(compute, kind.lower()))
    np.testing.assert_array_equal(logits(tmp_path / "out", options(compute)), on_load)
    model = load(tmp_path / "out", options(compute))
    assert model.quantization == kind
    assert model.text.tokenizer.encode("hello")
    model.session.close()


def test_a_topology_changes_only_what_it_names(folder, options, exact, tmp_path):
    (tmp_path / "t.yml").write_text("0: {isq: q8_0}\n'/lm_head/': {isq: q4_0}\n")
    only = logits(folder, options(topology=tmp_path / "t.yml"))
    change = np.linalg.norm(only - exact) / np.linalg.norm(exact)
    assert 0.1 < change < BOUNDS["Q4_0"]
    (tmp_path / "u.yml").write_text("0: {isq: q8_0}\n1: {}\n")
    better = logits(folder, options(quantize="q4_0", topology=tmp_path / "u.yml"))
    assert np.linalg.norm(better - exact) / np.linalg.norm(exact) < BOUNDS["Q8_0"]


def test_graphs_of_different_schemes_are_different_entries_of_the_cache(folder, tmp_path):
    (tmp_path / "t.yml").write_text("0: {isq: q8_0}\n")
    for quantize, topology in ((None, None), ("q4_0", None), ("q4_k", None), ("q4_0", tmp_path / "t.yml")):
        for _ in range(2):
            load(
                folder, LoadOptions("float32", 1, 1, 64, tmp_path / "cache", quantize=quantize, topology=topology)
            ).session.close()
    load(folder, LoadOptions("float32", 1, 1, 64, tmp_path / "cache", quantize="4")).session.close()  # q4_k once more
    assert len(list((tmp_path / "cache" / "graphs").iterdir())) == 4


@pytest.mark.parametrize("file", ["gguf_llama/tiny-llama-Q8_0.gguf", "gguf_llama_k256/tiny-llama-k256-Q4_K_M.gguf"])
def test_a_quantised_gguf_file_is_not_quantised_again(options, file):
    with pytest.raises(InvalidRequest, match=r"is quantised already, as Q.*; quantising it again would lose twice"):
        load(GOLDEN / file, options(quantize="q4_0"))


def test_a_gguf_file_of_float_weights_can_be_quantised(options):
    path = GOLDEN / "gguf_llama" / "tiny-llama-F16.gguf"
    exact = logits(path, options())
    change = np.linalg.norm(logits(path, options(quantize="q8_0")) - exact) / np.linalg.norm(exact)
    assert 0 < change < 0.05


def test_a_written_folder_is_not_quantised_again(folder, options, tmp_path):
    write_folder(open_model(folder), folder, tmp_path / "out", Scheme("Q4_0"), lambda done, total: None)
    with pytest.raises(InvalidRequest, match="is quantised already, as Q"):
        load(tmp_path / "out", options(quantize="q4_0"))


def test_a_broken_weight_is_refused_by_name(folder, options, tmp_path):
    shutil.copytree(folder, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 5] = np.inf
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(InvalidModelFile, match=f"tensor {name} holds a value that is not a number"):
        load(tmp_path / "broken", options(quantize="q4_k"))


@pytest.mark.parametrize("name", ["qwen3", "llama3_rope_tied", "mistral_swa"])
def test_short_rows_and_tied_tables_load_with_every_kind_of_blocks(name, options, prompts_of):
    prompt = prompts_of(name)[0]
    for kind, bound in (("q8_0", 0.05), ("q4_k", 0.35)):
        session = load(GOLDEN / name, options(quantize=kind)).session
        ids = prompt.ids[:32]
        got = session.prefill(0, ids, 0, np.arange(len(ids)), len(ids))
        wanted = prompt.logits[: len(ids)]
        assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < bound
        session.close()


def in_groups(matrix, group):
    """Values uint8 [columns, rows], zeros and scales [groups, rows] of a matrix [rows, columns] in four bits."""
    parts = matrix.astype(np.float32).T.reshape(-1, group, len(matrix))
    low, high = parts.min(axis=1), parts.max(axis=1)
    scales = ((high - low) / 15).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 1, 15).astype(np.uint8)
    values = np.clip(np.rint(parts / scales[:, None].astype(np.float32)) + zeros[:, None], 0, 15).astype(np.uint8)
    exact = (values.astype(np.float32) - zeros[:, None]) * scales[:, None].astype(np.float32)
    return values.reshape(-1, len(matrix)), zeros, scales, exact.reshape(-1, len(matrix)).T


def packed_rows(values, places):
    """Four-bit values [n, m] as int32 [n, m/8], value i of each eight at nibble places[i]."""
    eights = values.reshape(len(values), -1, 8).astype(np.uint32) << (4 * np.array(places, np.uint32))
    return np.bitwise_or.reduce(eights, axis=-1).view(np.int32)


def gptq_parts(values, zeros, scales, group):
    order = np.arange(len(values), dtype=np.int32) // group
    return {
        "qweight": packed_rows(values.T, range(8)).T,
        "qzeros": packed_rows(zeros - 1, range(8)),
        "scales": scales,
        "g_idx": order,
    }


def awq_parts(values, zeros, scales, group):
    places = [0, 4, 1, 5, 2, 6, 3, 7]
    return {"qweight": packed_rows(values, places), "qzeros": packed_rows(zeros, places), "scales": scales}


def with_weights(folder, out, tensors, quantization=None):
    shutil.copytree(folder, out)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, out / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    if quantization is not None:
        config["quantization_config"] = quantization
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize(("method", "parts"), [("gptq", gptq_parts), ("awq", awq_parts)])
def test_folders_that_were_quantised_elsewhere_run_as_their_values_do(folder, options, tmp_path, method, parts, group):
    dense, packed = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "_proj" not in name:
            dense[name] = packed[name] = tensor
            continue
        values, zeros, scales, exact = in_groups(tensor, group)
        dense[name] = exact
        stem = name.removesuffix(".weight")
        packed |= {f"{stem}.{part}": array for part, array in parts(values, zeros, scales, group).items()}
    quantization = {"quant_method": method, "bits": 4, "group_size": group}
    path = with_weights(folder, tmp_path / "packed", packed, quantization)
    wanted = logits(with_weights(folder, tmp_path / "dense", dense), options())
    np.testing.assert_allclose(logits(path, options()), wanted, rtol=0, atol=1e-3)
    model = load(path, options("auto"))
    assert (model.compute, model.quantization) == ("block8", f"INT4_G{group}")
    got = model.session.prefill(0, IDS, 0, np.arange(len(IDS)), len(IDS))
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.06  # int8 activations
    model.session.close()
    with pytest.raises(InvalidRequest, match="is quantised already, as INT4"):
        load(path, options(quantize="q4_0"))


def test_a_float8_folder_runs_and_can_be_quantised(folder, options, tmp_path):
    dense, packed = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "_proj" not in name:
            dense[name] = packed[name] = tensor
            continue
        rows, columns = tensor.shape
        scales = np.random.default_rng(1).uniform(0.002, 0.004, (-(-rows // 128), columns // 128)).astype(np.float32)
        factors = np.repeat(np.repeat(scales, 128, axis=0)[:rows], 128, axis=1)
        packed[name] = (tensor.astype(np.float32) / factors).astype(ml_dtypes.float8_e4m3fn)
        packed[f"{name}_scale_inv"] = scales
        dense[name] = packed[name].astype(np.float32) * factors
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    path = with_weights(folder, tmp_path / "packed", packed, quantization)
    wanted = logits(with_weights(folder, tmp_path / "dense", dense), options())
    np.testing.assert_allclose(logits(path, options()), wanted, rtol=0, atol=1e-3)
    change = np.linalg.norm(logits(path, options(quantize="q8_0")) - wanted) / np.linalg.norm(wanted)
    assert 0 < change < BOUNDS["Q8_0"]
