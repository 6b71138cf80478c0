"""X-LoRA folders: experts and a classifier, in PEFT's layout or in that of the original package."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.documents import read_object
from narthex_server.errors import InvalidModelFile, NotFound
from narthex_server.weights.adapters import AdapterWeights, read_adapter, read_adapter_config
from narthex_server.weights.safetensors import read_safetensors
from narthex_server.weights.tensors import StoredTensor

Floats = NDArray[np.float32]
LEGACY_CONFIG, LEGACY_WEIGHTS, ORDERING = "xlora_config.json", "xlora_classifier.safetensors", "ordering.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
_LAYER = re.compile(r".*internal_xlora_classifier\.(?:layers|inner)\.(\d+)\.(weight|bias)")
_LEGACY_LAYER = re.compile(r"inner\.(\d+)\.(weight|bias)")


@dataclass(frozen=True, slots=True)
class XLoraFiles:
    """What an X-LoRA folder holds: its settings, the classifier's layers (weight, bias), experts in order.

    `modules` are those with scalings of their own, in the classifier's order; empty where all share them.
    """

    fields: Mapping[str, Any]
    layers: tuple[tuple[Floats, Floats], ...]
    experts: tuple[AdapterWeights, ...]
    modules: tuple[str, ...]


def read_xlora(folder: Path) -> XLoraFiles:
    """Read a folder. Errors: NotFound, InvalidModelFile."""
    if not folder.is_dir():
        raise NotFound(f"there is no X-LoRA folder at {folder}")
    legacy = (folder / LEGACY_CONFIG).is_file()
    fields = read_object(folder / LEGACY_CONFIG) if legacy else read_adapter_config(folder)
    if not legacy and fields.get("peft_type") != "XLORA":
        raise InvalidModelFile(f"{folder}: its peft_type is {fields.get('peft_type')}, not XLORA")
    ordering = read_object(folder / ORDERING, optional=True)
    named = fields.get("adapters")
    if not isinstance(named, dict) or not named:
        raise InvalidModelFile(f"{folder}: adapters must name the experts and their folders")
    order = [str(name) for name in _listed(folder, ordering)] or list(named)
    if missing := [name for name in order if name not in named]:
        raise InvalidModelFile(f"{folder / ORDERING}: expert {missing[0]!r} is not among the configured adapters")
    experts = tuple(read_adapter(folder / str(named[name])) for name in order)
    layers = _classifier(folder / (LEGACY_WEIGHTS if legacy else PEFT_WEIGHTS), legacy)
    modules = _modules(ordering, experts) if fields.get("layerwise_scalings") else ()
    wanted = len(experts) * max(len(modules), 1)
    if (found := layers[-1][0].shape[0]) != wanted:
        raise InvalidModelFile(
            f"{folder}: the classifier gives {found} scalings, but {len(experts)} experts in "
            f"{max(len(modules), 1)} modules need {wanted}"
        )
    return XLoraFiles(fields, layers, experts, modules)


def _listed(folder: Path, ordering: Mapping[str, Any]) -> Sequence[Any]:
    """The experts that `ordering.json` puts in an order; it may leave that out, and the modules' too."""
    order, layers = ordering.get("order") or (), ordering.get("layers") or {}
    numbered = isinstance(layers, dict) and all(isinstance(place, int) for place in layers.values())
    if not numbered or not isinstance(order, list | tuple):
        raise InvalidModelFile(f"{folder / ORDERING}: order must list the experts, and layers number the modules")
    return order


def _modules(ordering: Mapping[str, Any], experts: Sequence[AdapterWeights]) -> tuple[str, ...]:
    """The modules in the order of `ordering.json`, else in that of the layers of the model."""
    if layers := ordering.get("layers"):
        return tuple(sorted(layers, key=lambda name: int(layers[name])))
    adapted = {name for expert in experts for name in expert.modules}
    return tuple(sorted(adapted, key=_position))


def _position(module: str) -> tuple[int, int, str]:
    """Where a module stands in a decoder of the Llama kind: layer by layer, attention before feed-forward."""
    number = re.search(r"\.(\d+)\.", module)
    parts = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "gate_up_proj", "up_proj", "down_proj")
    last = module.rpartition(".")[2]
    return int(number[1]) if number else -1, parts.index(last) if last in parts else len(parts), module


def _classifier(path: Path, legacy: bool) -> tuple[tuple[Floats, Floats], ...]:
    """The layers in order; PEFT numbers them among activations, the original package names the last one."""
    found: dict[int, dict[str, StoredTensor]] = {}
    for tensor in read_safetensors(path):
        if legacy and tensor.name.startswith("last."):
            found.setdefault(1 << 30, {})[tensor.name.removeprefix("last.")] = tensor
        elif match := (_LEGACY_LAYER if legacy else _LAYER).fullmatch(tensor.name):
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    layers = []
    for number in sorted(found):
        weight, bias = found[number].get("weight"), found[number].get("bias")
        if weight is None or len(weight.shape) != 2:
            raise InvalidModelFile(f"{path}: layer {number} of the classifier has no weight matrix")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise InvalidModelFile(
                f"{path}: layer {number} of the classifier has a bias {list(bias.shape)} for {weight.shape[0]} rows"
            )
        zeros = np.zeros(weight.shape[0], np.float32)
        layers.append((weight.dense(), zeros if bias is None else bias.dense()))
    if not layers:
        raise InvalidModelFile(f"{path}: there is no classifier in it")
    for (before, _), (after, _) in pairwise(layers):
        if before.shape[0] != after.shape[1]:
            raise InvalidModelFile(f"{path}: layers of the classifier do not meet: some are missing")
    return tuple(layers)
