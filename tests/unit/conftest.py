"""A real engine over a decoder that says what it is told to, with a golden model's tokenizer and template."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from narthex_server.engine.handle import EngineHandle
from narthex_server.pipelines.models import TextModel
from narthex_server.text.assets import TextAssets
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor
from numpy.typing import NDArray

GOLDEN = Path(__file__).parents[1] / "golden"


class ScriptedDecoder:
    """After `mark`, the last token of a prompt's generation opening, says the next of `replies`, then `end`.

    The turn that is said depends on how many assistant turns the prompt holds already, so it needs no memory of calls.
    """

    def __init__(self, replies: list[list[int]], opening: list[int], end: int, vocab_size: int, max_len: int) -> None:
        self.slots, self.max_len, self.vocab_size, self.state_bytes = 2, max_len, vocab_size, 0
        self.replies, self.opening, self.end = replies, opening, end
        self.cache = np.zeros((self.slots, max_len), np.int64)
        self.released: list[int] = []
        self.adapters = None
        self.token_bytes, self.appends = 8, True

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        out = np.zeros((len(tokens), self.vocab_size), np.float32)
        for row, (token, length) in enumerate(zip(tokens.tolist(), lengths.tolist(), strict=True)):
            self.cache[first + row, length] = token
            out[row, self._next(self.cache[first + row, : length + 1].tolist())] = 50
        return out[live]

    def prefill(
        self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int
    ) -> NDArray[np.float32]:
        self.cache[slot, past : past + len(tokens)] = tokens
        out = np.zeros((len(rows), self.vocab_size), np.float32)
        for index, row in enumerate(rows.tolist()):
            out[index, self._next(self.cache[slot, : past + row + 1].tolist())] = 50
        return out

    def prefix_class(self, length: int) -> int:
        return 0

    def copy(self, source: int, target: int, length: int) -> None:
        self.cache[target, :length] = self.cache[source, :length]

    def save(self, slot: int) -> None:
        return None

    def restore(self, slot: int, saved: None) -> None:
        pass

    def release(self, slot: int, length: int = 0) -> None:
        self.released.append(slot)

    def close(self) -> None:
        pass

    def _next(self, history: list[int]) -> int:
        size = len(self.opening)
        starts = [at + size for at in range(len(history) - size + 1) if history[at : at + size] == self.opening]
        if not starts:
            return self.end
        reply = self.replies[min(len(starts), len(self.replies)) - 1]
        said = len(history) - starts[-1]
        return reply[said] if said < len(reply) else self.end


Serve = Callable[..., AbstractAsyncContextManager[TextModel]]


@pytest.fixture
def serve() -> Serve:
    """Serves golden model `name`, which answers turn by turn with `replies`."""

    @asynccontextmanager
    async def serve(
        *replies: str, name: str = "qwen3", opening: str = "<|im_start|>assistant\n", max_len: int = 2048
    ) -> AsyncIterator[TextModel]:
        assets = TextAssets.from_folder(GOLDEN / name)
        encode = assets.tokenizer.encode
        decoder = ScriptedDecoder(
            [encode(reply, add_special=False) for reply in replies],
            encode(opening, add_special=False),
            min(assets.eos_ids),
            assets.tokenizer.size,
            max_len,
        )
        handle = EngineHandle(decoder)
        handle.start()
        try:
            yield TextModel(name, handle, assets)
        finally:
            await handle.stop(0)

    return serve


_HALVES = {
    "Q4_1": (0, 2), "Q5_1": (0, 2), "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "MXFP4": (),
}  # fmt: skip
"""Where a block has its float16 numbers, unless that is at its start."""


@pytest.fixture
def stored() -> Callable[[str, int, int], StoredTensor]:
    """Make a matrix of a format whose blocks are random and whose scales are ordinary numbers of either sign."""

    def make(name: str, rows: int, columns: int) -> StoredTensor:
        rng = np.random.default_rng(3)
        known = FORMATS[name]
        raw = rng.integers(0, 256, (rows, columns // known.block, known.bytes), dtype=np.uint8)
        for at in _HALVES.get(name, (0,)):
            raw[..., at : at + 2] = rng.normal(0, 0.004, raw.shape[:2]).astype(np.float16)[..., None].view(np.uint8)
        if name == "MXFP4":
            raw[..., 0] = rng.integers(118, 124, raw.shape[:2])
        return StoredTensor("w", (rows, columns), known, raw.reshape(rows, -1))

    return make
