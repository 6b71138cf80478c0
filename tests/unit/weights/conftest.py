"""Small model files, whole and broken."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Write a GGUF file of arrays, with metadata of every kind, and return its path."""

    def write(tensors: dict[str, np.ndarray], kinds: dict[str, gguf.GGMLQuantizationType] | None = None) -> Path:
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_bool("t.flag", True)
        writer.add_uint8("t.small", 200)
        writer.add_int64("t.large", -(1 << 40))
        writer.add_float32("t.real", 0.5)
        writer.add_string("t.text", "näher")
        writer.add_array("t.numbers", [1, 2, 3])
        writer.add_array("t.words", ["a", "", "ĠB"])
        for name, array in tensors.items():
            writer.add_tensor(name, array, raw_dtype=(kinds or {}).get(name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def write_safetensors(tmp_path: Path) -> Callable[..., Path]:
    """Write bytes after a header as a safetensors file into a folder, and return the folder."""

    def write(header: object, body: bytes, name: str = "model.safetensors") -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(text)) + text + body)
        return tmp_path

    return write
