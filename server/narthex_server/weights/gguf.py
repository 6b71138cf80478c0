"""The GGUF file format, versions 2 and 3, little-endian (`ggml/docs/gguf.md`); tensors are views of the mapped file."""

import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_BY_NUMBER = {known.ggml_type: known for known in FORMATS.values()}
_OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


class GgufFile:
    """A parsed file: `metadata` by key, `tensors` by the file's own names, shapes outermost dimension first."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    def __init__(self, path: Path) -> None:
        """Map and parse; InvalidModelFile says what is broken, at which byte."""
        self.path = path
        if path.stat().st_size < 24:
            raise InvalidModelFile(f"{path}: {path.stat().st_size} bytes are too few for a GGUF file")
        self._data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r").view(np.ndarray)
        self._buffer = self._data.data
        self._at = 4
        if bytes(self._buffer[:4]) != MAGIC:
            raise InvalidModelFile(f"{path}: not a GGUF file: it starts with {bytes(self._buffer[:4])!r}")
        version = self._scalar("I")
        if version not in _VERSIONS:
            kind = "big-endian" if version in (0x02000000, 0x03000000) else f"version {version}"
            raise InvalidModelFile(f"{path}: GGUF {kind}; supported are versions 2 and 3, little-endian")
        tensors, entries = self._scalar("Q"), self._scalar("Q")
        self.metadata = {self._string(): self._value(self._scalar("I")) for _ in range(entries)}
        infos = [self._info() for _ in range(tensors)]
        alignment = int(self.metadata.get("general.alignment", 32))
        if alignment <= 0:
            raise InvalidModelFile(f"{path}: general.alignment is {alignment}")
        start = -(-self._at // alignment) * alignment
        self.tensors = {name: self._tensor(start, name, shape, kind, at) for name, shape, kind, at in infos}

    def _need(self, size: int) -> int:
        """Move past `size` bytes and return where they start."""
        at, self._at = self._at, self._at + size
        if self._at > len(self._buffer):
            raise InvalidModelFile(
                f"{self.path}: truncated: {size} bytes wanted at byte {at}, the file has {len(self._buffer)}"
            )
        return at

    def _scalar(self, code: str) -> Any:
        layout = "<" + code
        return struct.unpack_from(layout, self._buffer, self._need(struct.calcsize(layout)))[0]

    def _string(self) -> str:
        size = self._scalar("Q")
        at = self._need(size)
        # Vocabularies hold pieces of characters in old files; what is no UTF-8 is kept, not refused.
        return str(self._buffer[at : at + size], "utf-8", "surrogateescape")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(self._scalar("I"), self._scalar("Q"))
        return self._scalar(self._code(kind))

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind in (_STRING, _ARRAY):
            if count > len(self._buffer):
                self._need(count)
            read: Callable[[], Any] = self._string if kind == _STRING else lambda: self._value(_ARRAY)
            return [read() for _ in range(count)]
        code = self._code(kind)
        at = self._need(count * struct.calcsize("<" + code))
        return list(struct.unpack_from(f"<{count}{code}", self._buffer, at))

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise InvalidModelFile(f"{self.path}: unknown metadata type {kind} before byte {self._at}")
        return _SCALARS[kind]

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        extents = self._scalar("I")
        if extents > 4:
            raise InvalidModelFile(f"{self.path}: tensor {name} has {extents} dimensions; GGUF allows 4")
        shape = tuple(self._scalar("Q") for _ in range(extents))[::-1]
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> StoredTensor:
        if kind not in _BY_NUMBER:
            known = ", ".join(FORMATS)
            raise InvalidModelFile(
                f"{self.path}: tensor {name} has type {_OTHER_TYPES.get(kind, kind)}; supported are {known}",
                reason="UNSUPPORTED_TENSOR_TYPE",
            )
        stored = _BY_NUMBER[kind]
        columns = shape[-1] if shape else 1
        if columns % stored.block:
            raise InvalidModelFile(f"{self.path}: tensor {name}: rows of {columns} in blocks of {stored.block}")
        row = columns // stored.block * stored.bytes
        size = prod(shape[:-1]) * row
        at = start + offset
        if at + size > len(self._data):
            raise InvalidModelFile(
                f"{self.path}: truncated: tensor {name} ends at byte {at + size}, the file has {len(self._data)}"
            )
        return StoredTensor(name, shape, stored, self._data[at : at + size].reshape(-1, max(row, 1)))
