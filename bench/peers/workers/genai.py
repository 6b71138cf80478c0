"""onnxruntime-genai: a decoder of the file's shape with random weights, written where it is missing.

Its own builder needs PyTorch, so the graph is made here as that builder makes it for CPU: 4-bit blocks of 32 with int8
activations, float32 embeddings, GroupQueryAttention with rotation inside.
"""

import json
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime_genai as og

from bench.peers.workers.worker import Prompts, arguments, serve, start_afresh
from bench.shapes import HEAD, SHAPES, SPREAD, Shape

BLOCK, CONTEXT = 32, 2048
UNIFORM = 4.61
"""Deviation of integers from -8 to 7."""
MICROSOFT = "com.microsoft"


class Graph:
    """Nodes in order, and their constants."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: dict[str, ir.Value] = {}
        self._shape = shape
        self._rng = np.random.default_rng(0)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        if name not in self.constants:
            self.constants[name] = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        return self.constants[name]

    def node(
        self,
        kind: str,
        *inputs: ir.Value,
        outputs: tuple[str, ...] = (),
        domain: str = "",
        **attributes: str | int | float,
    ) -> ir.Value:
        """One operator; its first output."""
        named = [ir.Value(name=name) for name in outputs or (f"{kind}_{len(self.nodes)}",)]
        self.nodes.append(ir.node(kind, inputs, attributes, domain=domain, outputs=named))
        return named[0]

    def linear(self, name: str, x: ir.Value, rows: int, columns: int, output: str = "") -> ir.Value:
        blocks = columns // BLOCK
        weights = self._rng.integers(0, 256, (rows, blocks, BLOCK // 2), np.uint8)
        return self.node(
            "MatMulNBits", x, self.constant(f"{name}.weight", weights),
            self.constant(f"{name}.scale", np.full(rows * blocks, SPREAD / UNIFORM, np.float32)),
            outputs=(output or f"{name}.y",), domain=MICROSOFT, K=columns, N=rows, bits=4, block_size=BLOCK,
            accuracy_level=4,
        )  # fmt: skip

    def norm(self, x: ir.Value) -> ir.Value:
        scale = self.constant("ones", np.ones(self._shape.hidden, np.float32))
        return self.node("SimplifiedLayerNormalization", x, scale, axis=-1, epsilon=1e-5, stash_type=1)

    def embedding(self, ids: ir.Value) -> ir.Value:
        table = self._rng.standard_normal((self._shape.vocab, self._shape.hidden), np.float32) * SPREAD
        return self.node("Gather", self.constant("embedding", table), ids)


def decoder(shape: Shape) -> ir.Model:
    graph = Graph(shape)
    ids, mask = (
        value(name, ir.DataType.INT64, ["batch", length])
        for name, length in (("input_ids", "new"), ("attention_mask", "all"))
    )
    one = graph.constant("one", np.array([1], np.int64))
    counted = graph.node("Sub", graph.node("ReduceSum", mask, one, keepdims=0), one)
    lengths = graph.node("Cast", counted, to=ir.DataType.INT32)
    total = graph.node("Gather", graph.node("Shape", mask), graph.constant("axis", np.array(1, np.int64)))
    longest = graph.node("Cast", total, to=ir.DataType.INT32)
    angles = np.outer(np.arange(CONTEXT), shape.rope_base ** (-np.arange(0, HEAD, 2) / HEAD)).astype(np.float32)
    cosines, sines = graph.constant("cosines", np.cos(angles)), graph.constant("sines", np.sin(angles))
    inputs: list[ir.Value] = [ids, mask]
    present: list[ir.Value] = []
    sizes: list[str | int] = ["batch", shape.kv_heads, "past", HEAD]
    x = graph.embedding(ids)
    for layer in range(shape.layers):
        past = [value(f"past_key_values.{layer}.{part}", ir.DataType.FLOAT, sizes) for part in ("key", "value")]
        inputs += past
        names = f"present.{layer}.key", f"present.{layer}.value"
        normed, at = graph.norm(x), f"layers.{layer}"
        heads = (("q", shape.heads), ("k", shape.kv_heads), ("v", shape.kv_heads))
        q, k, v = (graph.linear(f"{at}.{name}", normed, count * HEAD, shape.hidden) for name, count in heads)
        attended = graph.node(
            "GroupQueryAttention", q, k, v, *past, lengths, longest, cosines, sines, domain=MICROSOFT,
            outputs=(f"{at}.attended", *names), num_heads=shape.heads, kv_num_heads=shape.kv_heads, do_rotary=1,
            rotary_interleaved=0, scale=HEAD**-0.5,
        )  # fmt: skip
        present += graph.nodes[-1].outputs[1:]
        x = graph.node("Add", x, graph.linear(f"{at}.o", attended, shape.hidden, shape.heads * HEAD))
        normed = graph.norm(x)
        gate, up = (graph.linear(f"{at}.{name}", normed, shape.feed_forward, shape.hidden) for name in ("gate", "up"))
        active = graph.node("Mul", graph.node("Mul", gate, graph.node("Sigmoid", gate)), up)
        x = graph.node("Add", x, graph.linear(f"{at}.down", active, shape.hidden, shape.feed_forward))
    logits = graph.linear("head", graph.norm(x), shape.vocab, shape.hidden, "logits")
    for each in (logits, *present):
        each.type = ir.TensorType(ir.DataType.FLOAT)
        each.shape = ir.Shape(
            ["batch", "new", shape.vocab] if each is logits else ["batch", shape.kv_heads, "all", HEAD]
        )
    made = ir.Graph(
        inputs, [logits, *present], nodes=graph.nodes, initializers=list(graph.constants.values()), name="decoder",
        opset_imports={"": 21, MICROSOFT: 1},
    )  # fmt: skip
    return ir.Model(made, ir_version=10)


def value(name: str, kind: ir.DataType, sizes: list[str | int]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(sizes))


def write(folder: Path, shape: Shape, threads: int) -> None:
    """The graph, its weights beside it, and what the library wants to know of them."""
    folder.mkdir(parents=True)
    ir.save(decoder(shape), folder / "model.onnx", external_data="model.data")
    sections = ("past_key_names", "past_key_values.%d.key"), ("past_value_names", "past_key_values.%d.value")
    config = {
        "model": {
            "type": "llama", "vocab_size": shape.vocab, "context_length": CONTEXT,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
            "decoder": {
                "session_options": {"intra_op_num_threads": threads, "provider_options": []},
                "filename": "model.onnx", "head_size": HEAD, "hidden_size": shape.hidden,
                "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
                "num_hidden_layers": shape.layers,
                "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **dict(sections)},
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key", "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"do_sample": False, "max_length": CONTEXT, "past_present_share_buffer": True},
    }  # fmt: skip
    (folder / "genai_config.json").write_text(json.dumps(config, indent=1))


class GenAi:
    def __init__(self, folder: Path) -> None:
        self._model = og.Model(str(folder))

    def generate(self, prompts: Prompts, tokens: int) -> list[list[float]]:
        params, length = og.GeneratorParams(self._model), len(prompts[0]) + tokens
        params.set_search_options(batch_size=len(prompts), max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(self._model, params)
        generator.append_tokens(np.array(prompts, np.int32))
        times = []
        for _ in range(tokens):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return [times] * len(prompts)


def main() -> None:
    args = arguments(__doc__).parse_args()
    shape = args.model.stem.split("-")[0]
    folder = args.model.parent / f"{shape}-genai-int4-{args.threads}"
    if not folder.exists():
        write(folder, SHAPES[shape], args.threads)
        start_afresh()
    serve(lambda: GenAi(folder))


if __name__ == "__main__":
    main()
