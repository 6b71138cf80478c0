"""Folders as sentence-transformers writes them: what its modules say about making a vector of a text.

Source: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from narthex_server.embedding.head import Dense, Floats, Pooling
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.safetensors import SINGLE, read_safetensors

MODULES = "modules.json"
_POOLINGS: Mapping[str, Pooling] = {
    "cls": Pooling.FIRST, "mean": Pooling.MEAN, "lasttoken": Pooling.LAST, "max": Pooling.MAX,
}  # fmt: skip
_FLAGS = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max", "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}  # fmt: skip
_UNLIMITED = 1e18
_TANH = {"Tanh": True, "Identity": False}


@dataclass(frozen=True, slots=True)
class EmbedderFolder:
    """Where the encoder is, what comes before and after it; pooling None, max_tokens 0: the folder does not say."""

    encoder: Path
    pooling: Pooling | None = None
    dense: tuple[Dense, ...] = ()
    max_tokens: int = 0
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "EmbedderFolder":
        """Read modules.json and the folders that it names, or a lone pooling folder. Errors: InvalidModelFile."""
        modules = _modules(folder)
        kinds = [kind for kind, _ in modules]
        ends = kinds[2:] if kinds[-1] != "Normalize" else kinds[2:-1]
        if kinds[:1] != ["Transformer"] or kinds[1:2] not in ([], ["Pooling"]) or set(ends) - {"Dense"}:
            raise InvalidModelFile(
                f"{folder / MODULES}: {', '.join(kinds)} are not supported; supported are a Transformer, Pooling, "
                "then any Dense, then Normalize or not"
            )
        encoder = modules[0][1]
        pooling = next((_pooling(path) for kind, path in modules if kind == "Pooling"), None)
        dense = tuple(_dense(path) for kind, path in modules if kind == "Dense")
        own = next((read_object(path) for path in sorted(encoder.glob("sentence_*_config.json"))), {})
        prompts = read_object(folder / "config_sentence_transformers.json").get("prompts")
        return cls(
            encoder, pooling, dense, number(own, "max_seq_length"), bool(own.get("do_lower_case")),
            {str(name): str(text) for name, text in prompts.items()} if isinstance(prompts, dict) else {},
        )  # fmt: skip

    def check(self, hidden: int) -> None:
        """Errors: InvalidModelFile where the dense layers do not fit the encoder's hidden size, or each other."""
        for number, layer in enumerate(self.dense, start=1):
            rows, columns = layer.weight.shape
            if columns != hidden:
                raise InvalidModelFile(f"dense layer {number} takes {columns} numbers, but is given {hidden}")
            hidden = rows


def describes_embedder(folder: Path) -> bool:
    """Whether a folder has what only embedders have."""
    return (folder / MODULES).is_file() or any(folder.glob("*_Pooling/config.json"))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty where there is no such file. Errors: InvalidModelFile."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidModelFile(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{path}: not a JSON object")
    return value


def number(config: Mapping[str, Any], name: str) -> int:
    """The positive number of this name; 0 where there is none, or one that stands for no limit."""
    value = config.get(name)
    return int(value) if isinstance(value, int | float) and 0 < value < _UNLIMITED else 0


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """The kinds and folders of the modules, in order."""
    path = folder / MODULES
    if not path.is_file():
        return [
            ("Transformer", folder),
            *(("Pooling", config.parent) for config in folder.glob("*_Pooling/config.json")),
        ]
    try:
        entries = [
            (str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in json.loads(path.read_bytes())
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidModelFile(f"{path}: not a list of modules with type and path") from error
    if not entries:
        raise InvalidModelFile(f"{path}: lists no module")
    for _, name in entries:
        if name and Path(name).name != name:
            raise InvalidModelFile(f"{path}: module {name} lies outside the folder")
    return [(kind, folder / name) for kind, name in entries]


def _pooling(folder: Path) -> Pooling:
    path = folder / "config.json"
    config = read_object(path)
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode or [name for flag, name in _FLAGS.items() if config.get(flag)]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise InvalidModelFile(
            f"{path}: pooling {' and '.join(map(str, modes)) or 'by nothing'} is not supported; supported is one of "
            f"{', '.join(_POOLINGS)}"
        )
    if config.get("include_prompt") is False:
        raise InvalidModelFile(f"{path}: leaving the instruction out of the pooling is not supported")
    return _POOLINGS[modes[0]]


def _dense(folder: Path) -> Dense:
    path = folder / "config.json"
    config = read_object(path)
    try:
        shape = (int(config["out_features"]), int(config["in_features"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidModelFile(f"{path}: in_features or out_features is missing or no number") from error
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _TANH:
        raise InvalidModelFile(f"{path}: activation {activation} is not supported; supported are {', '.join(_TANH)}")
    tensors = {tensor.name: tensor for tensor in read_safetensors(folder / SINGLE)}

    def values(name: str, shape: tuple[int, ...]) -> Floats:
        if (tensor := tensors.get(name)) is None:
            raise InvalidModelFile(f"{folder / SINGLE}: tensor {name} is missing")
        if tensor.shape != shape:
            raise InvalidModelFile(
                f"{folder / SINGLE}: tensor {name} is {list(tensor.shape)}, the config says {list(shape)}"
            )
        return np.ascontiguousarray(tensor.dense())

    bias = values("linear.bias", shape[:1]) if config.get("bias", True) else None
    return Dense(values("linear.weight", shape), bias, _TANH[activation])
