"""Matrices of random quantised blocks."""

from collections.abc import Callable

import numpy as np
import pytest
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor


@pytest.fixture
def stored() -> Callable[[str, int, int], StoredTensor]:
    """Make a matrix of a format whose blocks are random and whose scales are ordinary numbers."""

    def make(name: str, rows: int, columns: int) -> StoredTensor:
        rng = np.random.default_rng(3)
        known = FORMATS[name]
        raw = rng.integers(0, 256, (rows, columns // known.block, known.bytes), dtype=np.uint8)
        for at in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}.get(name, (0,)):
            raw[..., at : at + 2] = rng.uniform(0.001, 0.01, raw.shape[:2]).astype(np.float16)[..., None].view(np.uint8)
        return StoredTensor("w", (rows, columns), known, raw.reshape(rows, -1))

    return make
