"""Reference outputs of tiny random-weight models, and sessions over those models."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from narthex_server.engine.decoder import DecoderSession
from narthex_server.loading import LoadedModel, LoadOptions, load
from numpy.typing import NDArray
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parent.parent / "golden"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One reference run: the logits of rows `start`.. of the prompt, then those that chose each greedy id."""

    name: str
    ids: NDArray[np.int64]
    start: int
    logits: NDArray[np.float32]
    greedy: list[int]
    decode_logits: NDArray[np.float32]


@pytest.fixture(scope="session")
def in_chunks() -> Callable[[DecoderSession, int, NDArray[np.int64]], NDArray[np.float32]]:
    """The logits of a prompt that a slot is given in chunks of several sizes."""

    def prefill(session: DecoderSession, slot: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        parts, past = [], 0
        for size in (1, 17, 40, len(ids)):
            chunk = ids[past : past + size]
            parts.append(session.prefill(slot, chunk, past, np.arange(len(chunk)), len(ids)).copy())
            past += len(chunk)
        return np.concatenate(parts)

    return prefill


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def prompts_of() -> Callable[[str], list[Prompt]]:
    """The reference runs of a model: `folder` or `folder/file.gguf`."""

    @cache
    def read(model: str) -> list[Prompt]:
        folder, _, file = model.partition("/")
        golden = json.loads((GOLDEN / folder / "golden.json").read_text())
        tensors = load_file(GOLDEN / folder / "golden.safetensors")
        if file:
            golden = next(entry for entry in golden["files"] if entry["file"] == file)
        return [
            Prompt(
                prompt["name"],
                np.array(prompt["input_ids"], np.int64),
                prompt.get("logits_start") or 0,
                tensors[prompt["tensors"]["logits"]],
                prompt["greedy_ids"],
                tensors[prompt["tensors"]["decode_logits"]],
            )
            for prompt in golden["prompts"]
        ]

    return read


@pytest.fixture(scope="session")
def load_golden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], LoadedModel]]:
    """Load a model once per compute mode, with four slots of 256 tokens."""
    cache_dir = tmp_path_factory.mktemp("graphs")

    @cache
    def get(model: str, compute: str) -> LoadedModel:
        return load(GOLDEN / model, LoadOptions(compute, threads=2, slots=4, max_context=256, cache_dir=cache_dir))

    yield get
