"""The standard decoder: embedding, layers of attention and gated feed-forward with RMS norms before each, head."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph import rope as rotary
from narthex_server.graph.attention import CacheInputs, Heads, attention, head_norm
from narthex_server.graph.builder import GraphBuilder
from narthex_server.graph.embedding import embed
from narthex_server.graph.linear import linear
from narthex_server.graph.mlp import ACTIVATIONS, gated
from narthex_server.graph.norm import add_rms_norm, rms_norm
from narthex_server.graph.rope import Rope
from narthex_server.weights.tensors import StoredTensor, WeightSource

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Dimensions and options of a standard decoder; `windows` has one entry per layer, None for full attention."""

    hidden: int
    intermediate: int
    vocab: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    activation: str
    tied: bool
    rope: Rope
    windows: tuple[int | None, ...]
    head_norms: bool = False

    @classmethod
    def parse(cls, fields: Fields) -> "DecoderConfig":
        """Read a Hugging Face config, in the spelling of transformers 4 or 5."""
        try:
            heads = int(fields["num_attention_heads"])
            layers = int(fields["num_hidden_layers"])
            head_dim = int(fields.get("head_dim") or fields["hidden_size"] // heads)
            config = cls(
                hidden=int(fields["hidden_size"]),
                intermediate=int(fields["intermediate_size"]),
                vocab=int(fields["vocab_size"]),
                layers=layers,
                heads=heads,
                kv_heads=int(fields.get("num_key_value_heads") or heads),
                head_dim=head_dim,
                epsilon=float(fields.get("rms_norm_eps", 1e-6)),
                activation=str(fields.get("hidden_act", "silu")),
                tied=bool(fields.get("tie_word_embeddings", False)),
                rope=parse_rope(fields, head_dim),
                windows=(None,) * layers,
            )
        except KeyError as error:
            raise InvalidModelFile(f"config: {error.args[0]} is missing") from error
        except (TypeError, ValueError) as error:
            raise InvalidModelFile(f"config: {error}") from error
        if config.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise InvalidModelFile(f"config: hidden_act {config.activation} is not supported; supported are {known}")
        return config


def parse_rope(fields: Fields, head_dim: int) -> Rope:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    scaling: dict[str, Any] = dict(fields.get("rope_scaling") or {}) | dict(fields.get("rope_parameters") or {})
    theta = float(scaling.get("rope_theta") or fields.get("rope_theta") or 10000.0)
    scaling.setdefault("original_max_position_embeddings", fields.get("max_position_embeddings"))
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    match kind:
        case "default":
            return rotary.linear(theta, head_dim, 1.0)
        case "linear":
            return rotary.linear(theta, head_dim, float(scaling["factor"]))
        case "llama3":
            return rotary.llama3(theta, head_dim, scaling)
        case "yarn":
            return rotary.yarn(theta, head_dim, scaling)
        case "factors":
            return rotary.factored(theta, head_dim, scaling["factors"])
    raise InvalidModelFile(f"config: rope type {kind} is not supported; supported are default, linear, llama3, yarn")


class Decoder:
    """Builds one decoder's graph: tokens [B, S], seqlens_k [B], total [1], rows [R] → logits [R, vocab]."""

    def __init__(self, config: DecoderConfig, weights: WeightSource, graph: GraphBuilder, max_len: int) -> None:
        self.config = config
        self.weights = weights
        self.graph = graph
        self.max_len = max_len

    def build(self) -> None:
        """Add every node; the caches of layer i are named `key.i` and `value.i`."""
        config, graph = self.config, self.graph
        tokens = graph.input("tokens", ir.DataType.INT64, ("batch", "length"))
        seqlens_k = graph.input("seqlens_k", ir.DataType.INT32, ("batch",))
        total = graph.input("total", ir.DataType.INT32, (1,))
        rows = graph.input("rows", ir.DataType.INT64, ("rows",))
        cache = CacheInputs(seqlens_k, total, self.max_len)

        table = self.tensor("model.embed_tokens.weight", config.vocab, config.hidden)
        hidden = embed(graph, tokens, table)
        normal = rms_norm(graph, hidden, self.norm("model.layers.0.input_layernorm"), config.epsilon)
        for layer in range(config.layers):
            prefix = f"model.layers.{layer}"
            attended = self.attention(f"{prefix}.self_attn", layer, normal, cache)
            after = self.norm(f"{prefix}.post_attention_layernorm")
            normal, hidden = add_rms_norm(graph, attended, hidden, after, config.epsilon)
            fed = self.feed_forward(f"{prefix}.mlp", normal)
            if layer + 1 < config.layers:
                following = self.norm(f"model.layers.{layer + 1}.input_layernorm")
                normal, hidden = add_rms_norm(graph, fed, hidden, following, config.epsilon)
            else:
                hidden = graph.op("Add", fed, hidden)

        # Only the rows that somebody asked for go through the head, the largest product of small models.
        flat = graph.constant("flat", np.array([-1, config.hidden], np.int64))
        hidden = graph.op("Gather", graph.op("Reshape", hidden, flat), rows, axis=0)
        normal = rms_norm(graph, hidden, self.norm("model.norm"), config.epsilon)
        normal.type, normal.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(("rows", config.hidden))
        head = table if config.tied else self.tensor("lm_head.weight", config.vocab, config.hidden)
        graph.output(linear(graph, normal, head), "logits", ir.DataType.FLOAT, ("rows", config.vocab))

    def attention(self, prefix: str, layer: int, x: ir.Value, cache: CacheInputs) -> ir.Value:
        """Self-attention of one layer."""
        config, graph = self.config, self.graph
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        query = self.project(f"{prefix}.q_proj", x, config.hidden, width)
        key = self.project(f"{prefix}.k_proj", x, config.hidden, kv_width)
        value = self.project(f"{prefix}.v_proj", x, config.hidden, kv_width)
        if config.head_norms:
            size, epsilon = config.head_dim, config.epsilon
            query = head_norm(graph, query, config.heads, size, self.tensor(f"{prefix}.q_norm.weight", size), epsilon)
            key = head_norm(graph, key, config.kv_heads, size, self.tensor(f"{prefix}.k_norm.weight", size), epsilon)
        heads = Heads(config.heads, config.kv_heads, config.head_dim, config.windows[layer])
        names = (f"key.{layer}", f"value.{layer}")
        mixed = attention(graph, query, key, value, heads, config.rope, cache, names)
        return self.project(f"{prefix}.o_proj", mixed, width, config.hidden)

    def feed_forward(self, prefix: str, x: ir.Value) -> ir.Value:
        """Feed-forward of one layer."""
        config = self.config
        gate = self.project(f"{prefix}.gate_proj", x, config.hidden, config.intermediate)
        up = self.project(f"{prefix}.up_proj", x, config.hidden, config.intermediate)
        mixed = gated(self.graph, gate, up, config.activation)
        return self.project(f"{prefix}.down_proj", mixed, config.intermediate, config.hidden)

    def project(self, name: str, x: ir.Value, columns: int, rows: int) -> ir.Value:
        """A linear layer; it has a bias where the weights have one."""
        bias = self.tensor(f"{name}.bias", rows) if self.weights.find(f"{name}.bias") else None
        return linear(self.graph, x, self.tensor(f"{name}.weight", rows, columns), bias)

    def norm(self, name: str) -> StoredTensor:
        return self.tensor(f"{name}.weight", self.config.hidden)

    def tensor(self, name: str, *shape: int) -> StoredTensor:
        """Find a tensor; a missing one or another shape than the config says is the file's fault."""
        tensor = self.weights.find(name)
        if tensor is None:
            raise InvalidModelFile(f"tensor {name} is missing")
        if tensor.shape != shape:
            raise InvalidModelFile(f"tensor {name} is {list(tensor.shape)}, the config says {list(shape)}")
        return tensor


def build_decoder(config: DecoderConfig, weights: WeightSource, graph: GraphBuilder, max_len: int) -> None:
    """Build a standard decoder whose slots hold `max_len` tokens."""
    Decoder(config, weights, graph, max_len).build()
