"""The standard encoder: vectors of token and place, then layers of attention and feed-forward with norms after each."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from narthex_server.errors import InvalidModelFile
from narthex_server.graph.adapters import Adapters
from narthex_server.graph.attention import Heads
from narthex_server.graph.builder import GraphBuilder
from narthex_server.graph.embedding import embed
from narthex_server.graph.linear import linear, vector
from narthex_server.graph.mlp import ACTIVATIONS
from narthex_server.graph.norm import add_layer_norm, layer_norm
from narthex_server.graph.whole import FullAttention, learned_places
from narthex_server.models.base import MOST_LAYERS, Fields, check_activation, check_numbers, parsing
from narthex_server.weights.tensors import StoredTensor, WeightSource, expected

_WORDS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Dimensions of a standard encoder; a text's first token is at `first_place` of `places`, `types` may be 0."""

    hidden: int
    intermediate: int
    vocab: int
    layers: int
    heads: int
    places: int
    first_place: int
    types: int
    epsilon: float
    activation: str

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.epsilon < 0:
            raise InvalidModelFile(f"config: the norms' epsilon is {self.epsilon}")

    @classmethod
    @parsing()
    def parse(cls, fields: Fields) -> "EncoderConfig":
        """Read a Hugging Face config in BERT's spelling."""
        config = cls(
            hidden=int(fields["hidden_size"]),
            intermediate=int(fields["intermediate_size"]),
            vocab=int(fields["vocab_size"]),
            layers=int(fields["num_hidden_layers"]),
            heads=int(fields["num_attention_heads"]),
            places=int(fields["max_position_embeddings"]),
            first_place=0,
            types=int(fields.get("type_vocab_size") or 0),
            epsilon=float(fields.get("layer_norm_eps", 1e-12)),
            activation=str(fields.get("hidden_act", "gelu")),
        )
        if not 0 < config.layers <= MOST_LAYERS:
            raise InvalidModelFile(f"config: num_hidden_layers is {config.layers}, not between 1 and {MOST_LAYERS}")
        check_activation(config.activation)
        if config.heads < 1 or config.hidden % config.heads:
            raise InvalidModelFile(f"config: {config.hidden} dimensions cannot be split into {config.heads} heads")
        if (kind := fields.get("position_embedding_type") or "absolute") != "absolute":
            raise InvalidModelFile(f"config: position_embedding_type {kind} is not supported; supported is absolute")
        return config


@dataclass(frozen=True, slots=True)
class Names:
    """What a checkpoint calls the parts of a layer, below `layers`.N."""

    layers: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    mixed: str = "attention.output.dense"
    mixed_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    down_norm: str = "output.LayerNorm"


class Encoder:
    """Builds one encoder's graph; a family with other `names` or other embeddings subclasses it."""

    names = Names()

    def __init__(
        self,
        config: EncoderConfig,
        weights: WeightSource,
        graph: GraphBuilder,
        attention: FullAttention,
        adapters: Adapters,
    ) -> None:
        self.config = config
        self.weights = weights
        self.graph = graph
        self.attention = attention
        self.adapters = adapters
        before = (name.removesuffix(_WORDS) for name in weights.names() if name.endswith(_WORDS))
        self.prefix = next(before, "")  # `bert.` and the like, where the file has a head beside the encoder

    def encode(self, tokens: ir.Value) -> None:
        """From tokens [B, S] to the output hidden [B, S, hidden]."""
        config, graph, names = self.config, self.graph, self.names
        if (places := config.places - config.first_place) < 1:
            raise InvalidModelFile(f"config: max_position_embeddings {config.places} leaves no place for a token")
        graph.note("max_len", str(places))
        hidden = self.embeddings(tokens)
        bias = self.bias(tokens)
        heads = Heads(config.heads, config.heads, config.hidden // config.heads)
        for layer in range(config.layers):
            prefix = f"{names.layers}.{layer}"
            query, key, value = (
                self.project(f"{prefix}.{name}", hidden, config.hidden, config.hidden)
                for name in (names.query, names.key, names.value)
            )
            mixed = self.attention.mix(layer, query, key, value, heads, None, bias)
            mixed = self.project(f"{prefix}.{names.mixed}", mixed, config.hidden, config.hidden)
            hidden = self.add_norm(f"{prefix}.{names.mixed_norm}", mixed, hidden)
            up = self.project(f"{prefix}.{names.up}", hidden, config.hidden, config.intermediate)
            up = ACTIVATIONS[config.activation](graph, up)
            down = self.project(f"{prefix}.{names.down}", up, config.intermediate, config.hidden)
            hidden = self.add_norm(f"{prefix}.{names.down_norm}", down, hidden)
        graph.output(hidden, "hidden", ir.DataType.FLOAT, ("batch", "length", config.hidden))

    def embeddings(self, tokens: ir.Value) -> ir.Value:
        """The vectors that the first layer sees, [B, S, hidden]."""
        config, graph = self.config, self.graph
        words = embed(graph, tokens, self.tensor(_WORDS, config.vocab, config.hidden))
        table = self.tensor("embeddings.position_embeddings.weight", config.places, config.hidden)
        places = learned_places(graph, tokens, table, config.first_place)
        if config.types:
            types = vector(graph, self.tensor("embeddings.token_type_embeddings.weight", config.types, config.hidden))
            places = graph.op("Add", places, graph.op("Gather", types, graph.constant("type", np.array(0, np.int64))))
        weight, bias = self.norm("embeddings.LayerNorm")
        return layer_norm(graph, graph.op("Add", words, places), weight, bias, config.epsilon)

    def bias(self, tokens: ir.Value) -> ir.Value | None:
        """What is added to the scores of every layer, [1, heads, S, S]."""
        return None

    def project(self, name: str, x: ir.Value, columns: int, rows: int) -> ir.Value:
        """A linear layer with a bias."""
        y = linear(self.graph, x, self.tensor(f"{name}.weight", rows, columns), self.tensor(f"{name}.bias", rows))
        return self.adapters.linear(f"{self.prefix}{name}", x, y, columns, rows)

    def add_norm(self, name: str, x: ir.Value, residual: ir.Value) -> ir.Value:
        weight, bias = self.norm(name)
        return add_layer_norm(self.graph, x, residual, weight, bias, self.config.epsilon)

    def norm(self, name: str) -> tuple[StoredTensor, StoredTensor]:
        """Weight and bias of a norm, which checkpoints from TensorFlow call gamma and beta."""
        old = self.weights.find(f"{self.prefix}{name}.gamma") is not None
        spelled = ("gamma", "beta") if old else ("weight", "bias")
        weight, bias = (self.tensor(f"{name}.{part}", self.config.hidden) for part in spelled)
        return weight, bias

    def tensor(self, name: str, *shape: int) -> StoredTensor:
        """Find a tensor; a missing one or another shape than the config says is the file's fault."""
        full = f"{self.prefix}{name}"
        return expected(self.weights.find(full), full, shape)
