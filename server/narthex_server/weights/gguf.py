"""One GGUF file: its metadata, and its tensors as views of the mapped file."""

import logging
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.formats import F64, FORMATS
from narthex_server.weights.gguf_reader import LONGEST_NAME, GgufReader
from narthex_server.weights.tensors import StoredTensor

_log = logging.getLogger(__name__)
_MOST_ENTRIES = 1 << 16
_BY_NUMBER = {known.ggml_type: known for known in FORMATS.values()}
_CONVERTED = {F64.name: "float32"}
"""Types that no kernel multiplies, and what they become."""
_OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


class GgufFile:
    """A parsed file: `metadata` by key, `tensors` by the file's own names, shapes outermost dimension first."""

    def __init__(self, path: Path) -> None:
        """Map and parse; InvalidModelFile says what is broken, at which byte."""
        self.path = path
        self._reader = GgufReader(path)
        tensors, entries = (self._count(kind) for kind in ("tensors", "metadata entries"))
        self.metadata: Mapping[str, Any] = self._entries(entries)
        infos = [self._info() for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise InvalidModelFile(f"{path}: general.alignment is {alignment!r}")
        start = -(-self._reader.at // alignment) * alignment
        self.tensors: Mapping[str, StoredTensor] = self._tensors(infos, start, alignment)
        for name, count in Counter(tensor.format.name for tensor in self.tensors.values()).items():
            if name in _CONVERTED:
                _log.info("%s: no kernel multiplies %s: %d tensors become %s", path, name, count, _CONVERTED[name])

    def _count(self, what: str) -> int:
        count = int(self._reader.scalar("Q"))
        if count > _MOST_ENTRIES:
            raise InvalidModelFile(f"{self.path}: {count} {what}; allowed are {_MOST_ENTRIES}")
        return count

    def _entries(self, count: int) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for _ in range(count):
            key = self._reader.string(LONGEST_NAME)
            if key in entries:
                raise InvalidModelFile(f"{self.path}: metadata {key!r} occurs twice")
            entries[key] = self._reader.value(self._reader.scalar("I"))
        return entries

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of a tensor."""
        read = self._reader
        name = read.string(LONGEST_NAME)
        extents = read.scalar("I")
        if extents > 4:
            raise InvalidModelFile(f"{self.path}: tensor {name} has {extents} dimensions; GGUF allows 4")
        shape = tuple(read.scalar("Q") for _ in range(extents))[::-1]
        return name, shape, read.scalar("I"), read.scalar("Q")

    def _tensors(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
    ) -> dict[str, StoredTensor]:
        """Views of the data that begins at byte `start`, none of which may overlap."""
        tensors: dict[str, StoredTensor] = {}
        end, before = 0, ""
        for name, shape, kind, offset in sorted(infos, key=lambda info: info[3]):
            if name in tensors:
                raise InvalidModelFile(f"{self.path}: tensor {name} occurs twice")
            if offset % alignment:
                raise InvalidModelFile(f"{self.path}: tensor {name} at {offset}, which {alignment} does not divide")
            if offset < end:
                raise InvalidModelFile(f"{self.path}: tensors {before} and {name} overlap at byte {start + offset}")
            tensor = self._tensor(start + offset, name, shape, kind)
            tensors[name] = tensor
            end, before = offset + tensor.raw.size, name
        return {name: tensors[name] for name, *_ in infos}

    def _tensor(self, at: int, name: str, shape: tuple[int, ...], kind: int) -> StoredTensor:
        if kind not in _BY_NUMBER:
            known = ", ".join(FORMATS)
            raise InvalidModelFile(
                f"{self.path}: tensor {name} has type {_OTHER_TYPES.get(kind, kind)}; supported are {known}",
                reason="UNSUPPORTED_TENSOR_TYPE",
            )
        stored = _BY_NUMBER[kind]
        if 0 in shape:
            raise InvalidModelFile(f"{self.path}: tensor {name} {list(shape)} is empty")
        columns = shape[-1] if shape else 1
        if columns % stored.block:
            raise InvalidModelFile(f"{self.path}: tensor {name}: rows of {columns} in blocks of {stored.block}")
        row = columns // stored.block * stored.bytes
        end = at + prod(shape[:-1]) * row
        data = self._reader.data
        if end > len(data):
            raise InvalidModelFile(
                f"{self.path}: truncated: tensor {name} {list(shape)} ends at byte {end}, the file has {len(data)}"
            )
        return StoredTensor(name, shape, stored, data[at:end].reshape(-1, row))
