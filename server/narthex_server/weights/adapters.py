"""Low-rank adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.documents import read_object
from narthex_server.errors import InvalidModelFile, NotFound
from narthex_server.weights.patterns import bounded
from narthex_server.weights.safetensors import read_safetensors
from narthex_server.weights.tensors import StoredTensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(embedding_)?([AB])(?:\.\w+)?(?:\.weight)?")
_MOST_PATTERNS = 4096
_UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "use_qalora",
)


@dataclass(frozen=True, slots=True)
class LowRank:
    """The factors of one module, float32 [rank, columns] and [rank, rows]; the adapter's scale is in `b`."""

    a: NDArray[np.float32]
    b: NDArray[np.float32]

    @property
    def rank(self) -> int:
        return len(self.a)


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """One adapter: factors by the module's Hugging Face name; `scale` is what its configuration says for most."""

    rank: int
    scale: float
    modules: Mapping[str, LowRank]


@dataclass(frozen=True, slots=True)
class _Scaling:
    """How much a product of factors counts (PEFT's LoraConfig): alpha / rank, or alpha / sqrt(rank)."""

    alpha: float
    alphas: Sequence[tuple[re.Pattern[str], float]]
    by_root: bool

    def of(self, module: str, rank: int) -> float:
        alpha = next((value for pattern, value in self.alphas if pattern.match(module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.by_root else rank)


def read_adapter(folder: Path) -> AdapterWeights:
    """Read a PEFT folder. Errors: NotFound; InvalidModelFile for what is broken, or not a LoRA that can be served."""
    if not os.path.exists(folder):  # also false for names that no file system takes
        raise NotFound(f"there is no adapter at {folder}")
    fields = read_adapter_config(folder)
    if (kind := fields.get("peft_type", "LORA")) != "LORA":
        raise InvalidModelFile(f"{folder}: adapters of type {kind} are not supported here; LORA is")
    for name in _UNSUPPORTED:
        if fields.get(name):
            raise InvalidModelFile(f"{folder / CONFIG}: {name} is not supported; merge the adapter into its model")
    if fields.get("bias", "none") != "none":
        raise InvalidModelFile(f"{folder / CONFIG}: bias {fields['bias']} is not supported; merge the adapter instead")
    scaling = _scaling(folder, fields)
    factors: dict[str, dict[str, StoredTensor]] = {}
    for tensor in read_safetensors(folder / WEIGHTS):
        match = _FACTOR.fullmatch(tensor.name)
        if match is None or len(tensor.shape) != 2:
            raise InvalidModelFile(f"{folder / WEIGHTS}: {tensor.name} is not a factor of a LoRA")
        factors.setdefault(match[1], {})[match[3]] = tensor
    if not factors:
        raise InvalidModelFile(f"{folder / WEIGHTS}: there are no factors in it")
    modules = {module: _low_rank(folder, module, found, scaling) for module, found in factors.items()}
    rank = max(low_rank.rank for low_rank in modules.values())
    return AdapterWeights(rank, scaling.of("", rank), modules)


def read_adapter_config(folder: Path) -> Mapping[str, Any]:
    """The object in adapter_config.json. Errors: InvalidModelFile."""
    path = folder / CONFIG
    if not path.is_file():
        raise InvalidModelFile(f"{folder} is not a PEFT adapter: {CONFIG} is missing")
    return read_object(path)


def _scaling(folder: Path, fields: Mapping[str, Any]) -> _Scaling:
    try:
        named = {str(name): float(value) for name, value in (fields.get("alpha_pattern") or {}).items()}
        alpha, by_root = float(fields["lora_alpha"]), bool(fields.get("use_rslora"))
    except KeyError as error:
        raise InvalidModelFile(f"{folder / CONFIG}: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidModelFile(f"{folder / CONFIG}: {error}") from error
    if not all(map(math.isfinite, (alpha, *named.values()))):
        raise InvalidModelFile(f"{folder / CONFIG}: lora_alpha and alpha_pattern must be finite numbers")
    if len(named) > _MOST_PATTERNS:
        raise InvalidModelFile(f"{folder / CONFIG}: alpha_pattern has {len(named)} entries, more than {_MOST_PATTERNS}")
    return _Scaling(alpha, [(_pattern(folder, name), value) for name, value in named.items()], by_root)


def _low_rank(folder: Path, module: str, found: Mapping[str, StoredTensor], scaling: _Scaling) -> LowRank:
    if set(found) != {"A", "B"}:
        raise InvalidModelFile(f"{folder / WEIGHTS}: {module} has only factor {next(iter(found))} of two")
    a, b = found["A"], found["B"]
    if a.shape[0] != b.shape[1] or not a.shape[0]:
        raise InvalidModelFile(f"{folder / WEIGHTS}: {module}: factors {list(a.shape)} and {list(b.shape)} do not meet")
    scale = np.float32(scaling.of(module, a.shape[0]))
    return LowRank(a.dense(), np.ascontiguousarray(b.dense().T) * scale)


def _pattern(folder: Path, pattern: str) -> re.Pattern[str]:
    """PEFT's rule: the pattern is the module's name or the end of it, in whole parts."""
    try:
        return re.compile(rf"(.*\.)?({bounded(pattern).pattern})$")
    except ValueError as error:
        raise InvalidModelFile(f"{folder / CONFIG}: alpha_pattern {pattern[:80]!r} {error}") from error
