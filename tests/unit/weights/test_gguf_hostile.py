"""Files made to hurt: each is refused at once, by what is wrong with it, without memory for what it claims to hold."""

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.gguf import GgufFile

U8, U32, STRING, ARRAY, F32 = 0, 4, 8, 9, 0


def text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str, shape: list[int], offset: int, kind: int = F32) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header(tensors: int, entries: int, *parts: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + b"".join(parts)


def nested(depth: int) -> bytes:
    return array(ARRAY, 1) * depth + array(U8, 1, b"x")


CASES = {
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "absurd tensor count": (header(1 << 60, 0), "1152921504606846976 tensors; allowed"),
    "absurd metadata count": (header(0, 1 << 63), "9223372036854775808 metadata entries; allowed"),
    "more tensors than there are": (header(90, 0, tensor("a", [4], 0)), "truncated"),
    "key without end": (header(0, 1, struct.pack("<Q", 60_000)), "truncated: 60000 bytes wanted"),
    "absurd key": (header(0, 1, struct.pack("<Q", 1 << 62)), "a text of 4611686018427387904 bytes"),
    "absurd text": (header(0, 1, entry("k", STRING, struct.pack("<Q", (1 << 64) - 1))), "a text of 184467440737095516"),
    "key twice": (header(0, 2, entry("k", U8, b"1"), entry("k", U8, b"2")), "'k' occurs twice"),
    "unknown type": (header(0, 1, entry("k", 77, b"")), "unknown metadata type 77"),
    "absurd array": (header(0, 1, entry("k", ARRAY, array(U32, 1 << 61))), "arrays of 2305843009213693952 elements"),
    "array without end": (header(0, 1, entry("k", ARRAY, array(U32, 1 << 20))), "truncated: 4194304 bytes wanted"),
    "texts without end": (header(0, 1, entry("k", ARRAY, array(STRING, 1 << 20))), "truncated"),
    "text in array without end": (
        header(0, 1, entry("k", ARRAY, array(STRING, 2, text("a") + struct.pack("<Q", 1 << 50)))), "truncated",
    ),
    "array of unknown type": (header(0, 1, entry("k", ARRAY, array(13, 1))), "unknown metadata type 13"),
    "arrays in arrays": (header(0, 1, entry("k", ARRAY, nested(100_000))), "arrays in arrays, 5 deep"),
    "many arrays": (header(0, 1, entry("k", ARRAY, array(ARRAY, 1 << 40))), "arrays of 1099511627776 elements"),
    "alignment of 0": (header(0, 1, entry("general.alignment", U32, bytes(4))), "general.alignment is 0"),
    "alignment of text": (header(0, 1, entry("general.alignment", STRING, text("x"))), "general.alignment is 'x'"),
    "many dimensions": (header(1, 0, tensor("a", [1] * 5, 0)), "5 dimensions"),
    "very many dimensions": (header(1, 0, text("a"), struct.pack("<I", 1 << 31)), "2147483648 dimensions"),
    "unknown tensor type": (header(1, 0, tensor("a", [4], 0, 99)), "tensor a has type 99"),
    "integers": (header(1, 0, tensor("a", [4], 0, 26)), "tensor a has type I32"),
    "empty tensor": (header(1, 0, tensor("a", [4, 0], 0)), r"tensor a \[0, 4\] is empty"),
    "huge tensor": (header(1, 0, tensor("a", [1 << 60] * 4, 0)), "truncated: tensor a"),
    "product that wraps to 0": (header(1, 0, tensor("a", [1 << 32, 1 << 32], 0)), "truncated: tensor a"),
    "part of a block": (header(1, 0, tensor("a", [33], 0, 2)), "rows of 33 in blocks of 32"),
    "far away": (header(1, 0, tensor("a", [4], (1 << 64) - 32)), "truncated: tensor a"),
    "not aligned": (header(1, 0, tensor("a", [4], 8)), "tensor a at 8, which 32 does not divide"),
    "overlapping": (header(2, 0, tensor("a", [16], 0), tensor("b", [4], 32)), "tensors a and b overlap"),
    "same place": (header(2, 0, tensor("a", [4], 32), tensor("b", [4], 32)), "tensors a and b overlap"),
    "tensor twice": (header(2, 0, tensor("a", [4], 0), tensor("a", [4], 32)), "tensor a occurs twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_at_once_and_by_name(case: str, tmp_path: Path) -> None:
    data, complaint = CASES[case]
    path = tmp_path / "model.gguf"
    path.write_bytes(data + bytes(256))
    refused_cheaply(lambda: GgufFile(path), complaint)


def refused_cheaply(act: Callable[[], object], complaint: str) -> None:
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(InvalidModelFile, match=complaint):
            act()
        assert time.perf_counter() - began < 1
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()


def test_gigabytes_of_metadata_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(header(0, 300))
        for index in range(300):
            file.write(entry(f"k{index}", STRING, struct.pack("<Q", 1 << 24)))
            file.seek(1 << 24, 1)
        file.truncate(file.tell() + 32)
    with pytest.raises(InvalidModelFile, match="metadata of more than 134217728 bytes"):
        GgufFile(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match="not a file"):
        GgufFile(tmp_path)


def test_the_largest_allowed_array_of_texts_is_read_within_seconds(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(0, 1, entry("k", ARRAY, array(STRING, 1 << 20, bytes(8 << 20)))))
    assert len(GgufFile(path).metadata["k"]) == 1 << 20
