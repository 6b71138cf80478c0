"""How GGUF files encode values (`ggml/docs/gguf.md`, versions 2 and 3, little-endian), read with limits."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile

MAGIC = b"GGUF"
LONGEST_NAME = 65535
LONGEST_TEXT = 1 << 24
MOST_ELEMENTS = 1 << 22
"""Of all arrays of a file together; the largest vocabularies with their merges have a third of that."""
LARGEST_HEADER = 1 << 27
"""Bytes of everything before the tensors' values."""
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEEPEST = 4
_length = struct.Struct("<Q")


class GgufReader:
    """Reads values one after the other from a mapped file; InvalidModelFile says what is broken, at which byte."""

    def __init__(self, path: Path) -> None:
        """Map the file and read past magic and version."""
        if not path.is_file():
            raise InvalidModelFile(f"{path}: not a file")
        if path.stat().st_size < 24:
            raise InvalidModelFile(f"{path}: {path.stat().st_size} bytes are too few for a GGUF file")
        self.path = path
        self.data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r").view(np.ndarray)
        self.at = 4
        self._buffer = self.data.data
        self._end = min(len(self._buffer), LARGEST_HEADER)
        self._elements = 0
        if bytes(self._buffer[:4]) != MAGIC:
            raise InvalidModelFile(f"{path}: not a GGUF file: it starts with {bytes(self._buffer[:4])!r}")
        version = self.scalar("I")
        if version not in _VERSIONS:
            kind = "big-endian" if version in (0x02000000, 0x03000000) else f"version {version}"
            raise InvalidModelFile(f"{path}: GGUF {kind}; supported are versions 2 and 3, little-endian")

    def scalar(self, code: str) -> Any:
        """A number in `struct`'s code."""
        layout = "<" + code
        return struct.unpack_from(layout, self._buffer, self._need(struct.calcsize(layout)))[0]

    def string(self, longest: int) -> str:
        """A text of at most so many bytes."""
        size = self.scalar("Q")
        if size > longest:
            raise InvalidModelFile(f"{self.path}: a text of {size} bytes before byte {self.at}; allowed are {longest}")
        at = self._need(size)
        # Vocabularies hold pieces of characters in old files; what is no UTF-8 is kept, not refused.
        return str(self._buffer[at : self.at], "utf-8", "surrogateescape")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of a metadata type; arrays become lists."""
        if kind == _STRING:
            return self.string(LONGEST_TEXT)
        if kind == _ARRAY:
            return self._array(self.scalar("I"), self.scalar("Q"), depth + 1)
        return self.scalar(self._code(kind))

    def _need(self, size: int) -> int:
        """Move past `size` bytes and return where they start."""
        at, self.at = self.at, self.at + size
        if self.at > self._end:
            raise self._beyond(at, size)
        return at

    def _beyond(self, at: int, size: int) -> InvalidModelFile:
        if self._end < len(self._buffer):
            return InvalidModelFile(f"{self.path}: metadata of more than {self._end} bytes")
        return InvalidModelFile(f"{self.path}: truncated: {size} bytes wanted at byte {at}, the file has {self._end}")

    def _array(self, kind: int, count: int, depth: int) -> list[Any]:
        self._elements += count
        if self._elements > MOST_ELEMENTS:
            raise InvalidModelFile(
                f"{self.path}: arrays of {self._elements} elements before byte {self.at}; allowed are {MOST_ELEMENTS}"
            )
        if depth > _DEEPEST:
            raise InvalidModelFile(f"{self.path}: arrays in arrays, {depth} deep, before byte {self.at}")
        if kind == _STRING:
            return self._strings(count)
        if kind == _ARRAY:
            return [self.value(_ARRAY, depth) for _ in range(count)]
        code = self._code(kind)
        at = self._need(count * struct.calcsize("<" + code))
        return list(struct.unpack_from(f"<{count}{code}", self._buffer, at))

    def _strings(self, count: int) -> list[str]:
        """Many short texts: the loop that opening a file spends its time in."""
        self._need(8 * count)
        self.at -= 8 * count
        buffer, unpack, end = self._buffer, _length.unpack_from, self._end
        texts = []
        at = self.at
        for _ in range(count):
            start = at + 8
            if start > end or (at := start + unpack(buffer, start - 8)[0]) > end:
                raise self._beyond(start, max(at - start, 8))
            texts.append(str(buffer[start:at], "utf-8", "surrogateescape"))
        self.at = at
        return texts

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise InvalidModelFile(f"{self.path}: unknown metadata type {kind} before byte {self.at}")
        return _SCALARS[kind]
