"""Tokenizers and templates of the golden models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from narthex_server.text.assets import TextAssets

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDERS = (
    "llama", "llama3_rope_tied", "mistral_swa", "qwen2", "qwen3", "mixtral", "qwen3_moe", "phi3", "phi3_longrope",
    "gemma2", "gemma3", "granite", "smollm3", "lfm2",
)  # fmt: skip
GGUF_FOLDERS = ("gguf_llama", "gguf_llama_rope3", "gguf_qwen2", "gguf_qwen3")


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture(params=GGUF_FOLDERS)
def gguf_folder(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / str(request.param)


@pytest.fixture
def golden() -> Callable[[Path], dict[str, Any]]:
    def read(folder: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "golden.json").read_text("utf-8"))
        return found

    return read


@pytest.fixture
def assets() -> Callable[[str], TextAssets]:
    return lambda name: TextAssets.from_folder(GOLDEN / name)


@pytest.fixture
def metadata() -> Callable[[Path], dict[str, Any]]:
    """A GGUF file's metadata, read by the reference reader."""

    def read(folder: Path) -> dict[str, Any]:
        reader = gguf.GGUFReader(sorted(folder.glob("*.gguf"))[0])
        return {name: field.contents() for name, field in reader.fields.items()}

    return read
