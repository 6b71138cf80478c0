"""Changed copies of a good file: each is opened or refused, in bounded time and memory, and nothing else happens."""

import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.text.assets import TextAssets
from narthex_server.weights.gguf_decoder import GgufWeights, huggingface_config
from narthex_server.weights.gguf_model import open_gguf

GOLDEN = Path(__file__).parents[2] / "golden"
FILES = ("gguf_llama/tiny-llama-Q4_0.gguf", "gguf_qwen3_k256/tiny-qwen3-k256-Q4_K_M.gguf")
NUMBERS = [
    number.to_bytes(size, "little")
    for size in (1, 4, 8)
    for number in (0, 1, 7, 8, 9, 255, (1 << 8 * size) - 1, 1 << 8 * size - 1, (1 << 8 * size - 1) - 1)
    if number < 1 << 8 * size
]  # fmt: skip
Change = Callable[[np.random.Generator, bytes, int], bytes]


def overwrite(rng: np.random.Generator, data: bytes, at: int) -> bytes:
    number = NUMBERS[rng.integers(len(NUMBERS))]
    return data[:at] + number + data[at + len(number) :]


def noise(rng: np.random.Generator, data: bytes, at: int) -> bytes:
    size = int(rng.integers(1, 9))
    return data[:at] + rng.bytes(size) + data[at + size :]


def insert(rng: np.random.Generator, data: bytes, at: int) -> bytes:
    return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]


def remove(rng: np.random.Generator, data: bytes, at: int) -> bytes:
    return data[:at] + data[at + int(rng.integers(1, 9)) :]


def repeat(rng: np.random.Generator, data: bytes, at: int) -> bytes:
    size = int(rng.integers(1, 200))
    return data[: at + size] + data[at:]


def cut(rng: np.random.Generator, data: bytes, at: int) -> bytes:
    return data[:at]


CHANGES: tuple[Change, ...] = (overwrite, overwrite, noise, insert, remove, repeat, cut)


def changed(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies with one to three changes before the tensors' values, most of them beside the name of something."""
    rng = np.random.default_rng(seed)
    header = data.rindex(b"output_norm.weight")
    names = [
        match.start() for match in re.finditer(rb"general|tokenizer|attention|split|rope|blk|output", data[:header])
    ]
    for _ in range(count):
        copy = data
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(4, header) if rng.random() < 0.3 else rng.choice(names) + rng.integers(-8, 64)
            copy = CHANGES[rng.integers(len(CHANGES))](rng, copy, int(at))
        yield copy


def survive(path: Path) -> bool:
    """Open all that a file has; whether it was good."""
    try:
        model = open_gguf(path)
        huggingface_config(model)
        weights = GgufWeights(model)
        for name in weights.names():
            weights.find(name)
        assets = TextAssets.from_gguf(model.metadata)
        assets.tokenizer.encode("Hello 12345 world")
    except InvalidModelFile:
        return False
    return True


def fuzz(name: str, folder: Path, count: int, seed: int) -> None:
    data = (GOLDEN / name).read_bytes()
    path = folder / "model.gguf"
    outcomes = set()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, copy in enumerate(changed(data, count, seed)):
        path.write_bytes(copy)
        began = time.thread_time()
        outcomes.add(survive(path))
        assert time.thread_time() - began < 1, f"change {index} of seed {seed} takes too long"
    assert outcomes == {True, False}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kilobytes"


@pytest.mark.parametrize("name", FILES)
def test_changed_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, 150, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("name", FILES)
def test_very_many_changed_files_are_read_or_refused(name: str, seed: int, tmp_path: Path) -> None:
    fuzz(name, tmp_path, 3000, seed)
