"""gpt-oss: attention sinks, a window in every other layer, biases, and experts whose gates are clamped."""

from dataclasses import dataclass, field, replace

from narthex_server.graph.attention import Heads
from narthex_server.graph.mlp import Gating, Swiglu
from narthex_server.graph.moe import Expert
from narthex_server.models.base import SLIDING, DecoderConfig, Fields, Mixture, parsing, windows
from narthex_server.models.mixture import MixtureDecoder
from narthex_server.weights.tensors import StoredTensor


@dataclass(frozen=True, slots=True)
class GptOssConfig(DecoderConfig):
    """A decoder's dimensions, and what its experts do between their projections."""

    swiglu: Swiglu = field(default_factory=Swiglu)


@parsing()
def parse(fields: Fields) -> GptOssConfig:
    """Read a config; without `layer_types` the even layers have the window."""
    defaults = {"head_dim": 64, "rope_theta": 150000.0, "sliding_window": 128, "rms_norm_eps": 1e-5}
    config = GptOssConfig.parse(known := {**defaults, **fields})
    kinds = known.get("layer_types") or [SLIDING if i % 2 == 0 else "" for i in range(config.layers)]
    return replace(
        config,
        windows=windows(kinds, config.layers, known["sliding_window"]),
        swiglu=Swiglu(float(known.get("swiglu_alpha", 1.702)), 1.0, float(known.get("swiglu_limit", 7.0))),
        mixture=Mixture(
            count=int(known.get("num_local_experts") or known["num_experts"]),
            chosen=int(known["num_experts_per_tok"]),
            width=config.intermediate,
            normalised=True,
            layers=frozenset(range(config.layers)),
        ),
    )


class GptOss(MixtureDecoder):
    """A decoder of mixtures with sinks."""

    config: GptOssConfig
    router = "router"

    def heads(self, layer: int) -> Heads:
        sink = self.tensor(f"model.layers.{layer}.self_attn.sinks", self.config.heads)
        return replace(super().heads(layer), sink=sink)

    def gating(self) -> Gating:
        return self.config.swiglu

    def experts(self, prefix: str, mixed: Mixture) -> list[Expert]:
        """The experts of a layer; in folders, gate and up are one projection in which their rows take turns."""
        return [self.expert(prefix, index, mixed) for index in range(mixed.count)]

    def expert(self, prefix: str, index: int, mixed: Mixture) -> Expert:
        hidden, width = self.config.hidden, mixed.width
        if self.find(f"{prefix}.{index}.gate_proj.weight"):
            shapes = {"gate_proj": (width, hidden), "up_proj": (width, hidden), "down_proj": (hidden, width)}
            gate, up, down = (self.tensor(f"{prefix}.{index}.{n}.weight", *shape) for n, shape in shapes.items())
            biases = [self.tensor(f"{prefix}.{index}.{n}.bias", rows) for n, (rows, _) in shapes.items()]
            return Expert(gate, up, down, (biases[0], biases[1], biases[2]))
        gate_up = self.matrix(prefix, "gate_up_proj", index, 2 * width, hidden)
        gate_up_bias = self.tensor(f"{prefix}.gate_up_proj_bias", mixed.count, 2 * width).part(index)
        down_bias = self.tensor(f"{prefix}.down_proj_bias", mixed.count, hidden).part(index)
        return Expert(
            gate_up.alternate(0), gate_up.alternate(1), self.matrix(prefix, "down_proj", index, hidden, width),
            (gate_up_bias.alternate(0), gate_up_bias.alternate(1), down_bias),
        )  # fmt: skip

    def matrix(self, prefix: str, name: str, index: int, rows: int, columns: int) -> StoredTensor:
        """A matrix [rows, columns] of one expert: by itself, or transposed among those of all."""
        if self.find(f"{prefix}.{name}") is None:
            return self.tensor(f"{prefix}.{index}.{name}.weight", rows, columns)
        count = self.config.mixture.count if self.config.mixture else 0
        return self.tensor(f"{prefix}.{name}", count, columns, rows).part(index).transposed()


CONFIG = parse
MODEL = GptOss
