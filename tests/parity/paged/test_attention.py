"""Attention over pages against attention over slots, which the CPU computes: other heads than the models have."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from narthex_server.graph import rope
from narthex_server.graph.attention import CachedAttention, Heads
from narthex_server.graph.builder import Compute, GraphBuilder
from narthex_server.graph.paged import PagedAttention
from narthex_server.runtime.paged.blocks import Blocks
from narthex_server.runtime.paged.packer import Chunks, Packer

MAX_LEN, SLOTS = 96, 4
LONG = rope.longrope(
    1e4, 16,
    {"original_max_position_embeddings": 20, "max_position_embeddings": 96, "short_factor": [1.0] * 8,
     "long_factor": [2.0] * 8},
)  # fmt: skip
CASES = {
    "heads of 32, rotated inside": (Heads(6, 3, 32), rope.linear(1e4, 32, 1.0)),
    "heads of 20, filled up": (Heads(4, 1, 20), rope.linear(1e4, 20, 2.0)),
    "half of a head rotated": (Heads(4, 4, 24), rope.linear(5e3, 12, 1.0)),
    "a window": (Heads(4, 2, 16, window=7), rope.linear(1e4, 16, 1.0)),
    "soft-caps and a scale": (Heads(2, 1, 40, scale=0.4, softcap=1.5), rope.linear(1e4, 40, 1.0)),
    "nothing rotated": (Heads(3, 1, 8), None),
    "long prompts rotated otherwise": (Heads(2, 2, 16), LONG),
}


def build(path, kind, heads, turns):
    graph = GraphBuilder("attention", Compute.FLOAT32)
    widths = {"query": heads.count, "key": heads.kv_count, "value": heads.kv_count}
    inputs = [
        graph.input(name, ir.DataType.FLOAT, ("batch", "length", count * heads.size)) for name, count in widths.items()
    ]
    mixed = kind(graph, MAX_LEN).mix(0, *inputs, heads, turns)
    graph.output(mixed, "mixed", ir.DataType.FLOAT, ("batch", "length", heads.count * heads.size))
    graph.save(path, path.with_suffix(".bin").name)
    return path


def on_slots(path, heads, sequences, known):
    """Each sequence at once, by the CPU's kernel."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    size = -(-heads.size // 8) * 8
    found = []
    for parts, prompt in zip(sequences, known, strict=True):
        length = parts["query"].shape[0]
        cache = np.zeros((1, heads.kv_count, MAX_LEN, size), np.float32)
        feeds = {
            "key.0": cache, "value.0": cache.copy(), "seqlens_k": np.array([length - 1], np.int32),
            "total": np.array([length], np.int32), "known": np.array([prompt], np.int32),
            **{name: part[None] for name, part in parts.items()},
        }  # fmt: skip
        takes = {value.name for value in session.get_inputs()}
        found.append(session.run(["mixed"], {name: feeds[name] for name in takes})[0][0])
    return found


@pytest.mark.parametrize("case", CASES)
def test_packed_chunks_of_several_sequences_are_what_each_is_alone(case, tmp_path, evaluate):
    heads, turns = CASES[case]
    rng, lengths, slots = np.random.default_rng(7), [37, 3, 70], np.array([2, 0, 3])
    counts = {"query": heads.count, "key": heads.kv_count, "value": heads.kv_count}
    sequences = [
        {name: rng.normal(size=(length, count * heads.size)).astype(np.float32) for name, count in counts.items()}
        for length in lengths
    ]
    known = np.array(lengths)
    wanted = on_slots(build(tmp_path / "slots.onnx", CachedAttention, heads, turns), heads, sequences, known)
    run = evaluate(build(tmp_path / "pages.onnx", PagedAttention, heads, turns))
    blocks = Blocks.holding(SLOTS, MAX_LEN, 16)
    packer = Packer(blocks, MAX_LEN, 20 if turns and turns.beyond else MAX_LEN)
    shape = (blocks.count, blocks.size, heads.kv_count, -(-heads.size // 8) * 8)
    caches = {name: np.full(shape, np.nan, np.float32) for name in ("key.0", "value.0")}
    got, past = [[] for _ in lengths], np.zeros(3, np.int64)
    for sizes in ([30, 1, 16], [6, 1, 53], [1, 1, 1]):
        chunks = Chunks(np.zeros(sum(sizes), np.int64), np.array(sizes), slots, past, known)
        feeds = dict(packer.pack(chunks, np.zeros(1, np.int64)))
        for name in counts:
            now = [parts[name][p : p + n] for parts, p, n in zip(sequences, past, sizes, strict=True)]
            feeds[name] = np.concatenate(now)[None]
        mixed = run("mixed", feeds | caches)[0]
        for logits, part in zip(got, np.split(mixed, np.cumsum(sizes)[:-1]), strict=True):
            logits.append(part)
        past = past + np.array(sizes)
    for parts, whole in zip(got, wanted, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=2e-5)
