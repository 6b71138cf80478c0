"""The ONNX file format (`onnx.proto3`), read as far as it takes to know what a graph wants and whether it is whole.

Weights are not read. The runtime reads them itself, from the file and the ones beside it.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from narthex_server.errors import InvalidModelFile

_MOST_FIELDS = 1_000_000
"""A decoder of a hundred layers as PyTorch traces it has a third of that."""
_DEEPEST = 16
_LARGEST = 1 << 31
"""A protobuf message cannot be longer: larger models keep their weights in files beside it."""

TYPES: Mapping[int, tuple[str, float]] = {
    1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 4: ("uint16", 2), 5: ("int16", 2), 6: ("int32", 4),
    7: ("int64", 8), 8: ("string", 0), 9: ("bool", 1), 10: ("float16", 2), 11: ("float64", 8), 12: ("uint32", 4),
    13: ("uint64", 8), 16: ("bfloat16", 2), 17: ("float8e4m3fn", 1), 19: ("float8e5m2", 1), 21: ("uint4", 0.5),
    22: ("int4", 0.5), 23: ("float4e2m1", 0.5),
}  # fmt: skip
"""By number: the element type's name, NumPy's where it has one, and its bytes."""


@dataclass(frozen=True, slots=True)
class Value:
    """A graph's input or output; an extent without a number is a name, or empty."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An initializer's description; `stored` bytes lie in the file, or in `location` from `offset` on."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: int
    location: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """One operator, wherever in the graph it stands, with the integers among its attributes."""

    operator: str
    inputs: tuple[str, ...]
    integers: Mapping[str, int]


class OnnxFile:
    """A graph's description: `inputs`, `outputs`, `nodes` of all depths, and initializers by name.

    Errors: InvalidModelFile for what is no ONNX file, is truncated, or lacks a file that it names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._left = _MOST_FIELDS
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        size = path.stat().st_size
        if not 0 < size < _LARGEST:
            raise InvalidModelFile(f"{path}: {size} bytes are no ONNX file")
        data = memoryview(np.memmap(path, np.uint8, "r").view(np.ndarray))  # type: ignore[arg-type]
        graphs = [_bytes(value) for number, value in self._fields(data) if number == 7]
        if not graphs:
            raise self._broken("it has no graph")
        self._graph(graphs[0], 0)
        self.inputs = [value for value in self.inputs if value.name not in self.tensors]
        self._check_external()

    def _graph(self, data: memoryview, depth: int) -> None:
        if depth > _DEEPEST:
            raise self._broken(f"graphs are nested deeper than {_DEEPEST}")
        for number, value in self._fields(data):
            match number:
                case 1:
                    self._node(_bytes(value), depth)
                case 5:
                    tensor = self._tensor(_bytes(value))
                    self.tensors[tensor.name] = tensor
                case 11 if depth == 0:
                    self.inputs.append(self._value(_bytes(value)))
                case 12 if depth == 0:
                    self.outputs.append(self._value(_bytes(value)))

    def _node(self, data: memoryview, depth: int) -> None:
        inputs, operator, integers = [], "", {}
        for number, value in self._fields(data):
            match number:
                case 1:
                    inputs.append(_text(value))
                case 4:
                    operator = _text(value)
                case 5:
                    name, integer = self._attribute(_bytes(value), depth)
                    if integer is not None:
                        integers[name] = integer
        self.nodes.append(Node(operator, tuple(inputs), integers))

    def _attribute(self, data: memoryview, depth: int) -> tuple[str, int | None]:
        name, integer = "", None
        for number, value in self._fields(data):
            match number:
                case 1:
                    name = _text(value)
                case 3 if isinstance(value, int):
                    integer = value
                case 5 | 10:
                    self._tensor(_bytes(value))
                case 6 | 11:
                    self._graph(_bytes(value), depth + 1)
        return name, integer

    def _tensor(self, data: memoryview) -> Tensor:
        name, kind, stored, entries = "", 0, 0, {}
        shape: list[int] = []
        for number, value in self._fields(data):
            match number:
                case 1:
                    shape += [value] if isinstance(value, int) else self._varints(value)
                case 2 if isinstance(value, int):
                    kind = value
                case 8:
                    name = _text(value)
                case 4 | 5 | 6 | 7 | 9 | 10 | 11:
                    stored += 8 if isinstance(value, int) else len(value)
                case 13:
                    entry = {key: _text(text) for key, text in self._fields(_bytes(value))}
                    entries[entry.get(1, "")] = entry.get(2, "")
        dtype, size = TYPES.get(kind, (f"type {kind}", 0.0))
        elements = prod(shape)
        if min(shape, default=0) < 0 or (not entries and size and elements > 0 and elements * min(size, 1) > stored):
            raise self._broken(f"tensor {name or 'without a name'} {shape} has {stored} bytes")
        if not entries:
            return Tensor(name, dtype, tuple(shape), stored)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", elements * size))
        except ValueError as error:
            raise self._broken(f"tensor {name}: the place of its data is no number") from error
        if offset < 0 or length < elements * size:
            raise self._broken(f"tensor {name} {shape} of {dtype} has {length} bytes at {offset}")
        return Tensor(name, dtype, tuple(shape), length, entries.get("location", ""), offset)

    def _value(self, data: memoryview) -> Value:
        name, kind = "", 0
        shape: list[int | str] = []
        for number, value in self._fields(data):
            if number == 1:
                name = _text(value)
            elif number == 2:
                for tensor in (part for what, part in self._fields(_bytes(value)) if what == 1):
                    for what, part in self._fields(_bytes(tensor)):
                        if what == 1 and isinstance(part, int):
                            kind = part
                        elif what == 2:
                            shape = [self._extent(_bytes(one)) for what, one in self._fields(_bytes(part)) if what == 1]
        return Value(name, TYPES.get(kind, (f"type {kind}", 0))[0], tuple(shape))

    def _extent(self, data: memoryview) -> int | str:
        for _, value in self._fields(data):
            return value if isinstance(value, int) else _text(value)
        return ""

    def _check_external(self) -> None:
        folder, sizes = self.path.parent, dict[str, int]()
        for tensor in self.tensors.values():
            if not (location := tensor.location):
                continue
            if location not in sizes:
                file = folder / location
                if Path(location).is_absolute() or ".." in Path(location).parts:
                    raise self._broken(f"its weights lie outside the folder, in {location}")
                if not os.path.isfile(file):  # also false for names that no file system takes
                    raise InvalidModelFile(f"{self.path}: its weights are in {location}, which is not beside it")
                sizes[location] = file.stat().st_size
            if (end := tensor.offset + tensor.stored) > sizes[location]:
                raise InvalidModelFile(
                    f"{folder / location}: truncated: tensor {tensor.name} ends at byte {end} of {sizes[location]}"
                )

    def _fields(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Yield the fields of one message: their number, and an integer or the bytes."""
        at, end = 0, len(data)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise self._broken(f"more than {_MOST_FIELDS} fields")
            key, at = self._varint(data, at)
            match key & 7:
                case 0:
                    value, at = self._varint(data, at)
                    yield key >> 3, value - (1 << 64) if value >> 63 else value
                case 2:
                    size, at = self._varint(data, at)
                    if size > end - at:
                        raise self._broken(f"truncated: a field takes {size} bytes, {end - at} are left")
                    yield key >> 3, data[at : at + size]
                    at += size
                case 1 | 5 as wire:
                    at += 8 if wire == 1 else 4
                case wire:
                    raise self._broken(f"a field of wire type {wire}")

    def _varint(self, data: memoryview, at: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 70 and at < len(data):
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (1 << 64) - 1, at
            shift += 7
        raise self._broken("truncated, or not a protobuf")

    def _varints(self, data: memoryview) -> list[int]:
        values, at = [], 0
        while at < len(data):
            value, at = self._varint(data, at)
            values.append(value)
        return values

    def _broken(self, what: str) -> InvalidModelFile:
        return InvalidModelFile(f"{self.path}: broken ONNX file: {what}")


def _bytes(value: int | memoryview) -> memoryview:
    return memoryview(b"") if isinstance(value, int) else value


def _text(value: int | memoryview) -> str:
    return str(_bytes(value), "utf-8", "replace")
