"""The metadata of one architecture in a GGUF file, by type: a broken file has numbers where texts belong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.gguf_model import GgufModel

_MOST_LAYERS = 4096


@dataclass(frozen=True, slots=True)
class ArchitectureMetadata:
    """Values of the keys `<architecture>.*`; each method raises InvalidModelFile for a value of another type.

    A key without a default must be there.
    """

    model: GgufModel

    @property
    def architecture(self) -> str:
        name = self.model.metadata.get("general.architecture")
        if not isinstance(name, str):
            raise InvalidModelFile(f"{self.model.path}: general.architecture is {name!r:.80}")
        return name

    def integer(self, key: str, default: int | None = None) -> int:
        """A count or length; where it is given for each layer, all must be the same."""
        value = self._value(key, default)
        if isinstance(value, list) and value and all(entry == value[0] for entry in value):
            value = value[0]
        if type(value) is not int or value < 0:
            raise self._wrong(key, value, "a whole number")
        return value

    def key_heads(self) -> Sequence[int]:
        """Heads of keys of each layer, whether the file has one number or all; a layer without attention has none."""
        key, layers = "attention.head_count_kv", self.layers()
        value = self._value(key, self.integer("attention.head_count"))
        values = value if isinstance(value, list) else [value] * layers
        if len(values) != layers or not all(type(entry) is int and entry >= 0 for entry in values):
            raise self._wrong(key, value, f"a whole number or {layers} of them")
        return values

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._wrong(key, value, "a number")
        return float(value)

    def text(self, key: str, default: str) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a text")
        return value

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.model.metadata

    def layers(self) -> int:
        """How many layers there are."""
        layers = self.integer("block_count")
        if not 0 < layers <= _MOST_LAYERS:
            raise self._wrong("block_count", layers, f"between 1 and {_MOST_LAYERS}")
        return layers

    def _value(self, key: str, default: Any) -> Any:
        value = self.model.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise InvalidModelFile(f"{self.model.path}: metadata {self.architecture}.{key} is missing")
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> InvalidModelFile:
        return InvalidModelFile(f"{self.model.path}: metadata {self.architecture}.{key} is {value!r:.80}, not {wanted}")
