"""Encoders that need no model."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np
import pytest
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.embedding.head import Head, Pooling
from numpy.typing import NDArray


class Counting:
    """Hidden states are the token itself and its place; batches are remembered, and wait while the gate is shut."""

    max_len, hidden_size, alone = 32, 2, False

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.closed = False

    def encode(self, tokens: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        self.entered.set()
        self.gate.wait(20)
        self.batches.append(lengths.tolist())
        if (tokens == 666).any():
            raise RuntimeError("no such token")
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        return np.stack((tokens, places), axis=-1).astype(np.float32)

    def close(self) -> None:
        self.closed = True


Embed = Callable[..., AbstractAsyncContextManager[EmbedderHandle]]


@pytest.fixture
def encoder() -> Counting:
    return Counting()


@pytest.fixture
def started(encoder: Counting) -> Embed:
    """A started handle over `encoder`."""

    @asynccontextmanager
    async def started(**options: object) -> AsyncIterator[EmbedderHandle]:
        handle = EmbedderHandle(encoder, Head(Pooling.MEAN), **options)
        handle.start()
        try:
            yield handle
        finally:
            encoder.gate.set()
            await handle.stop(0)

    return started
