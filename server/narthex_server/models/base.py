"""The standard decoder: embedding, layers of attention and gated feed-forward with RMS norms before each, head.

A family subclasses `Decoder` and overrides the part in which it differs; tasks (`generate`, `encode`) add inputs and
outputs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph import rope as rotary
from narthex_server.graph.adapters import Adapters
from narthex_server.graph.attention import Attention, Heads, head_norm
from narthex_server.graph.builder import GraphBuilder
from narthex_server.graph.embedding import embed
from narthex_server.graph.linear import linear
from narthex_server.graph.mlp import ACTIVATIONS, gated
from narthex_server.graph.norm import rms_norm
from narthex_server.graph.residual import Residual
from narthex_server.graph.rope import Rope
from narthex_server.weights.joined import Joiner
from narthex_server.weights.tensors import StoredTensor, WeightSource, expected

Fields = Mapping[str, Any]
SLIDING = "sliding_attention"
MOST_LAYERS = 4096
_LARGEST_HEAD = 65536
_WIDEST_WINDOW = (1 << 31) - 1


@contextmanager
def parsing() -> Iterator[None]:
    """Raise InvalidModelFile for what a config lacks, or has in another type; also a decorator."""
    try:
        yield
    except InvalidModelFile:
        raise
    except KeyError as error:
        raise InvalidModelFile(f"config: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise InvalidModelFile(f"config: {error}") from error


@dataclass(frozen=True, slots=True)
class Mixture:
    """Mixtures of `count` experts of this inner width, of which a token chooses some, in these layers.

    The weights of the chosen ones are divided by their sum if `normalised`, and multiplied by `scale`. `shared` is the
    width of an expert that every token has besides, 0 without one.
    """

    count: int
    chosen: int
    width: int
    normalised: bool
    layers: frozenset[int]
    scale: float = 1.0
    shared: int = 0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.chosen <= self.count:
            raise InvalidModelFile(f"config: {self.chosen} of {self.count} experts cannot be chosen")


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Dimensions and options of a standard decoder.

    `windows` and `ropes` have one entry per layer; None is full attention there, and no rotation here.
    """

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
    ropes: tuple[Rope | None, ...]
    windows: tuple[int | None, ...]
    attention_scale: float | None = None
    attention_softcap: float = 0.0
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.epsilon < 0:
            raise InvalidModelFile(f"config: the norms' epsilon is {self.epsilon}")
        if widest := next((window for window in self.windows if window and not 0 < window <= _WIDEST_WINDOW), None):
            raise InvalidModelFile(f"config: the sliding window is {widest}, not between 1 and {_WIDEST_WINDOW}")

    @classmethod
    @parsing()
    def parse(cls, fields: Fields) -> Self:
        """Read a Hugging Face config, in the spelling of transformers 4 or 5; what a subclass adds is left as it is."""
        heads = int(fields["num_attention_heads"])
        layers = int(fields["num_hidden_layers"])
        head_dim = int(fields.get("head_dim") or fields["hidden_size"] // heads)
        for name, value, most in (("num_hidden_layers", layers, MOST_LAYERS), ("head_dim", head_dim, _LARGEST_HEAD)):
            if not 0 < value <= most:
                raise InvalidModelFile(f"config: {name} is {value}, not between 1 and {most}")
        config = cls(
            hidden=int(fields["hidden_size"]),
            intermediate=int(fields["intermediate_size"]),
            vocab=int(fields["vocab_size"]),
            layers=layers,
            heads=heads,
            kv_heads=int(fields.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            epsilon=float(fields.get("rms_norm_eps", 1e-6)),
            activation=str(fields.get("hidden_act") or fields.get("hidden_activation") or "silu"),
            tied=bool(fields.get("tie_word_embeddings", False)),
            ropes=(parse_rope(fields, head_dim),) * layers,
            windows=(None,) * layers,
        )
        if config.kv_heads < 1 or heads % config.kv_heads:
            raise InvalidModelFile(f"config: {heads} attention heads cannot share {config.kv_heads} keys and values")
        check_activation(config.activation)
        return config


def check_activation(name: str) -> None:
    """Raise InvalidModelFile for an activation that is not built."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise InvalidModelFile(f"config: hidden_act {name} is not supported; supported are {known}")


def check_numbers(config: Any) -> None:
    """Raise InvalidModelFile where a number of a parsed config is not finite, or the root of a negative one."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidModelFile(f"config: {field.name} is {value}, which is no finite number")


def windows(kinds: Sequence[str], layers: int, window: int | None) -> tuple[int | None, ...]:
    """Give the window to the layers that `layer_types` calls sliding."""
    if len(kinds) != layers:
        raise InvalidModelFile(f"config: layer_types names {len(kinds)} layers, the model has {layers}")
    return tuple(int(window) if window and kind == SLIDING else None for kind in kinds)


@np.errstate(all="ignore")  # Rope refuses what is no finite number
def parse_rope(fields: Fields, head_dim: int) -> Rope:
    """Read `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (4)."""
    scaling: dict[str, Any] = dict(fields.get("rope_scaling") or {}) | dict(fields.get("rope_parameters") or {})
    theta = float(scaling.get("rope_theta") or fields.get("rope_theta") or 10000.0)
    partial = float(scaling.get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 1.0)
    if not 0 < partial <= 1:
        raise InvalidModelFile(f"config: partial_rotary_factor is {partial}, not above 0 and at most 1")
    rotated = int(head_dim * partial)
    if not rotated:
        raise InvalidModelFile(f"config: partial_rotary_factor {partial} rotates none of {head_dim} values")
    longest = fields.get("max_position_embeddings")
    scaling.setdefault("max_position_embeddings", longest)
    scaling.setdefault("original_max_position_embeddings", fields.get("original_max_position_embeddings") or longest)
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    match kind:
        case "default":
            return rotary.linear(theta, rotated, 1.0)
        case "linear":
            return rotary.linear(theta, rotated, float(scaling["factor"]))
        case "llama3":
            return rotary.llama3(theta, rotated, scaling)
        case "yarn":
            return rotary.yarn(theta, rotated, scaling)
        case "longrope" | "su":
            return rotary.longrope(theta, rotated, scaling)
        case "factors":
            return rotary.factored(theta, rotated, scaling["factors"])
    known = "default, linear, llama3, yarn, longrope"
    raise InvalidModelFile(f"config: rope type {kind} is not supported; supported are {known}")


class Decoder:
    """Builds one decoder's graph; `attention` decides where keys and values are kept.

    The class's own attributes are names of weights, which some families call otherwise.
    """

    final_norm = "model.norm"
    layer_norms = ("input_layernorm", "post_attention_layernorm")
    output_projection = "o_proj"
    feed_forward = ("mlp", "gate_proj", "up_proj", "down_proj")

    def __init__(
        self,
        config: DecoderConfig,
        weights: WeightSource,
        graph: GraphBuilder,
        attention: Attention,
        adapters: Adapters,
    ) -> None:
        self.config = config
        self.weights = weights
        self.graph = graph
        self.attention = attention
        self.adapters = adapters
        self._joiner = Joiner()

    def generate(self, tokens: ir.Value) -> ir.Value:
        """From tokens [B, S] to the output logits [R, vocab] of the tokens that the input rows [R] name.

        Return what the head reads: the normalised states [R, hidden] of those tokens.
        """
        graph, hidden, vocab = self.graph, self.config.hidden, self.config.vocab
        stream = self.body(tokens)
        # Only the rows that somebody asked for go through the head, the largest product of small models.
        rows = graph.input("rows", ir.DataType.INT64, ("rows",))
        flat = graph.constant("flat", np.array([-1, hidden], np.int64))
        chosen = graph.op("Gather", graph.op("Reshape", stream.value(), flat), rows, axis=0)
        normal = self.normalise(chosen, self.final_norm)
        normal.type, normal.shape = ir.TensorType(graph.dtype), ir.Shape(("rows", hidden))
        logits = self.adapters.head("lm_head", normal, self.head(normal), hidden, vocab, rows)
        graph.output(graph.as_float32(self.logits(logits)), "logits", ir.DataType.FLOAT, ("rows", vocab))
        return normal

    def encode(self, tokens: ir.Value) -> None:
        """From tokens [B, S] to the output hidden [B, S, hidden]."""
        normal = self.normalise(self.body(tokens).value(), self.final_norm)
        self.graph.output(normal, "hidden", ir.DataType.FLOAT, ("batch", "length", self.config.hidden))

    def body(self, tokens: ir.Value) -> Residual:
        """Everything before the final norm."""
        stream = Residual(self.graph, self.embed(tokens))
        for layer in range(self.config.layers):
            self.layer(layer, stream)
        return stream

    def embed(self, tokens: ir.Value) -> ir.Value:
        """Token embeddings [B, S, hidden]."""
        values = embed(self.graph, tokens, self.table())
        return self.adapters.embedding("model.embed_tokens", tokens, values, self.config.vocab, self.config.hidden)

    def layer(self, layer: int, stream: Residual) -> None:
        """One layer: attention, then feed-forward."""
        epsilon = self.config.epsilon
        before_attention, before_feed = (self.norm(f"model.layers.{layer}.{name}") for name in self.layer_norms)
        stream.add(self.attend(layer, stream.normal(before_attention, epsilon)))
        stream.add(self.feed(layer, stream.normal(before_feed, epsilon)))

    def attend(self, layer: int, x: ir.Value) -> ir.Value:
        """Self-attention of one layer."""
        config, prefix = self.config, f"model.layers.{layer}.self_attn"
        query, key, value = self.query_key_value(prefix, x)
        mixed = self.attention.mix(layer, query, key, value, self.heads(layer), config.ropes[layer])
        return self.project(f"{prefix}.{self.output_projection}", mixed, config.heads * config.head_dim, config.hidden)

    def heads(self, layer: int) -> Heads:
        """The attention heads of one layer."""
        config = self.config
        return Heads(
            config.heads, config.kv_heads, config.head_dim,
            config.windows[layer], config.attention_scale, config.attention_softcap,
        )  # fmt: skip

    def query_key_value(self, prefix: str, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Query [B, S, heads*head_dim], key and value [B, S, kv_heads*head_dim], before they are rotated."""
        config = self.config
        width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
        rows = {f"{prefix}.q_proj": width, f"{prefix}.k_proj": kv_width, f"{prefix}.v_proj": kv_width}
        query, key, value = self.project_all(rows, x, config.hidden)
        return query, key, value

    def feed(self, layer: int, x: ir.Value) -> ir.Value:
        """Feed-forward of one layer."""
        block, *names = self.feed_forward
        return self.gated(f"model.layers.{layer}.{block}", names, x, self.config.intermediate)

    def gated(self, prefix: str, names: Sequence[str], x: ir.Value, width: int) -> ir.Value:
        """down(activation(gate(x)) * up(x)), with the projections of these three names."""
        hidden, (gate, up, down) = self.config.hidden, names
        opened = self.project(f"{prefix}.{gate}", x, hidden, width)
        mixed = gated(self.graph, opened, self.project(f"{prefix}.{up}", x, hidden, width), self.config.activation)
        return self.project(f"{prefix}.{down}", mixed, width, hidden)

    def head(self, normal: ir.Value) -> ir.Value:
        """The product of normalised states [R, hidden] with the head, [R, vocab]."""
        config = self.config
        weight = self.table() if config.tied else self.tensor("lm_head.weight", config.vocab, config.hidden)
        return linear(self.graph, normal, weight)

    def logits(self, product: ir.Value) -> ir.Value:
        """Logits [R, vocab] of what the head gave."""
        return product

    def table(self) -> StoredTensor:
        return self.tensor("model.embed_tokens.weight", self.config.vocab, self.config.hidden)

    def project(self, name: str, x: ir.Value, columns: int, rows: int) -> ir.Value:
        """A linear layer; it has a bias where the weights have one."""
        bias = self.tensor(f"{name}.bias", rows) if self.find(f"{name}.bias") else None
        y = linear(self.graph, x, self.tensor(f"{name}.weight", rows, columns), bias)
        return self.adapters.linear(name, x, y, columns, rows)

    def project_all(self, rows: Mapping[str, int], x: ir.Value, columns: int) -> Sequence[ir.Value]:
        """Linear layers of one x, by how many rows each has: one product where their weights are stored alike."""
        weights = [self.tensor(f"{name}.weight", count, columns) for name, count in rows.items()]
        biases = [self.tensor(f"{name}.bias", rows[name]) for name in rows if self.find(f"{name}.bias")]
        weight, bias = self._joiner.join(weights), self._joiner.join(biases) if biases else None
        if weight is None or len(biases) != (len(rows) if bias else 0):
            return [self.project(name, x, columns, count) for name, count in rows.items()]
        parts = self.graph.split(linear(self.graph, x, weight, bias), list(rows.values()))
        return [
            self.adapters.linear(name, x, part, columns, count)
            for (name, count), part in zip(rows.items(), parts, strict=True)
        ]

    def normalise(self, x: ir.Value, name: str, size: int | None = None) -> ir.Value:
        """The norm of this name over the last axis of x, which has `size` values, hidden unless told otherwise."""
        return rms_norm(self.graph, x, self.norm(name, size), self.config.epsilon)

    def norm(self, name: str, size: int | None = None) -> StoredTensor:
        """The factors of an RMS norm over `size` values, hidden unless told otherwise."""
        return self.tensor(f"{name}.weight", size or self.config.hidden)

    def find(self, name: str) -> StoredTensor | None:
        """The tensor of this name, None where the file has none."""
        return self.weights.find(name)

    def tensor(self, name: str, *shape: int) -> StoredTensor:
        """Find a tensor; a missing one or another shape than the config says is the file's fault."""
        return expected(self.find(name), name, shape)


class HeadNorms(Decoder):
    """A decoder that normalises each head of queries and keys before they rotate."""

    norms = ("q_norm", "k_norm")

    def query_key_value(self, prefix: str, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        query, key, value = super().query_key_value(prefix, x)
        config, (query_norm, key_norm) = self.config, self.norms
        return (
            self.head_norm(query, config.heads, f"{prefix}.{query_norm}"),
            self.head_norm(key, config.kv_heads, f"{prefix}.{key_norm}"),
            value,
        )

    def head_norm(self, x: ir.Value, heads: int, name: str) -> ir.Value:
        size = self.config.head_dim
        return head_norm(self.graph, x, heads, size, self.norm(name, size), self.config.epsilon)
