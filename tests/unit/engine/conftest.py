"""A small decoder whose logits depend on every cached token, so that a corrupted slot shows in the output."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import numpy as np
import pytest
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.observer import EngineObserver, RequestReport, StepReport
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Finished, Tokens
from narthex_server.errors import FailedPrecondition
from numpy.typing import NDArray

POISON, SEED = -7, 17


class HashBank:
    """An adapter is a number, which is added to what a slot caches of a token, times the slot's blend."""

    capacity = 2

    def __init__(self, slots: int) -> None:
        self.numbers = [0] * self.capacity
        self.blends = np.zeros((slots, self.capacity), np.float32)

    def check(self, adapter: int) -> None:
        if adapter < 0:
            raise FailedPrecondition("made for another model")

    def load(self, place: int, adapter: int) -> None:
        assert self.numbers[place] == 0
        if adapter > 1000:
            raise RuntimeError("broken")
        self.numbers[place] = adapter

    def unload(self, place: int) -> None:
        if self.numbers[place] == 1000:
            raise RuntimeError("stuck")
        self.numbers[place] = 0

    def choose(self, slot: int, blend: NDArray[np.float32]) -> None:
        self.blends[slot] = blend

    def shift(self, slot: int) -> int:
        return round(float(self.blends[slot] @ np.array(self.numbers)) * 100)


class HashDecoder:
    """Logits [vocab] are drawn from a hash of all the tokens so far; the cache holds the tokens themselves.

    A stateful one computes them from a running hash instead, which cannot be cut back. Prompts of `long` tokens and
    more give other logits than the same tokens in shorter ones. With a bank it adapts.
    """

    def __init__(
        self, slots: int = 4, max_len: int = 128, vocab_size: int = 50, state_bytes: int = 0, long: int = 10_000,
        adapts: bool = False,
    ) -> None:  # fmt: skip
        self.slots, self.max_len, self.vocab_size, self.state_bytes = slots, max_len, vocab_size, state_bytes
        self.cache = np.full((slots, max_len), POISON, np.int64)
        self.state = [SEED] * slots
        self.long = long
        self.adapters = HashBank(slots) if adapts else None
        self.token_bytes = 8
        self.appends = True
        self.closed = False
        self.calls: list[tuple[str, int]] = []
        self.before: Callable[[str, NDArray[np.int64]], None] | None = None
        """Called with the method's name and its tokens; may block or raise."""

    def hashed(self, tokens: NDArray[np.int64], seed: int = SEED) -> int:
        for token in tokens.tolist():
            seed = (seed * 1_000_003 + token + 11) % (2**61 - 1)
        return seed

    def drawn(self, seed: int) -> NDArray[np.float32]:
        return np.random.default_rng(seed).normal(size=self.vocab_size).astype(np.float32)

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        assert len(tokens) == len(lengths) > 0 and 0 <= first <= first + len(tokens) <= self.slots
        assert tokens.dtype == np.int64 and lengths.dtype == np.int32 and lengths.max() < self.max_len
        self._begin("decode", tokens)
        out = np.empty((len(tokens), self.vocab_size), np.float32)
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            slot = first + row
            self.cache[slot, length] = token + self._shift(length + 1) + self._adapted(slot)
            if row in live:
                past = self.state[slot] if length else SEED
                self.state[slot] = self.hashed(self.cache[slot, length : length + 1], past)
            out[row] = self.drawn(self.state[slot] if self.state_bytes else self.hashed(self.cache[slot, : length + 1]))
        return out[live]

    def prefill(
        self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int
    ) -> NDArray[np.float32]:
        assert len(tokens) and past + len(tokens) <= self.max_len
        self._begin("prefill", tokens)
        self.cache[slot, past : past + len(tokens)] = tokens + self._shift(known) + self._adapted(slot)
        states = [SEED] if past == 0 else [self.state[slot]]
        for at in range(past, past + len(tokens)):
            states.append(self.hashed(self.cache[slot, at : at + 1], states[-1]))
        self.state[slot] = states[-1]
        seeds = (
            states[1:]
            if self.state_bytes
            else [self.hashed(self.cache[slot, : past + row + 1]) for row in range(len(tokens))]
        )
        out = [self.drawn(seeds[row]) for row in rows]
        return np.array(out, np.float32).reshape(len(rows), self.vocab_size)

    def prefix_class(self, length: int) -> int:
        return int(length >= self.long)

    def save(self, slot: int) -> int:
        return self.state[slot]

    def restore(self, slot: int, saved: int) -> None:
        self.state[slot] = saved

    def copy(self, source: int, target: int, length: int) -> None:
        assert source != target
        self._begin("copy", self.cache[source, :length])
        self.cache[target] = POISON
        self.cache[target, :length] = self.cache[source, :length]
        self.state[target] = self.state[source]

    def release(self, slot: int, length: int = 0) -> None:
        self.cache[slot, length:] = POISON

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def solo(self, prompt: tuple[int, ...], count: int, adapted: int = 0) -> tuple[int, ...]:
        """The greedy continuation, computed without cache or batch; `adapted` is what adapters add."""
        cached = [token + self._shift(len(prompt)) + adapted for token in prompt]
        tokens: list[int] = []
        for _ in range(count):
            tokens.append(int(self.drawn(self.hashed(np.array(cached))).argmax()))
            cached.append(tokens[-1] + self._shift(len(cached) + 1) + adapted)
        return tuple(tokens)

    def _adapted(self, slot: int) -> int:
        return self.adapters.shift(slot) if self.adapters else 0

    def _shift(self, known: int) -> int:
        """What is cached of a token differs in long prompts."""
        return self.vocab_size if known >= self.long else 0

    def _begin(self, call: str, tokens: NDArray[np.int64]) -> None:
        assert not self.closed
        self.calls.append((call, len(tokens)))
        if self.before is not None:
            self.before(call, tokens)


class Recorder:
    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.reports: list[RequestReport] = []
        self.changed = asyncio.Event()

    async def finished(self, count: int) -> None:
        """Waits until that many requests have ended, read or not."""
        async with asyncio.timeout(10):
            while len(self.reports) < count:
                self.changed.clear()
                await self.changed.wait()

    def on_step(self, report: StepReport) -> None:
        self.steps.append(report)

    def on_finished(self, report: RequestReport) -> None:
        self.reports.append(report)
        self.changed.set()


Running = Callable[..., AbstractAsyncContextManager[EngineHandle]]


@pytest.fixture(autouse=True)
def nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An engine that goes idle checks its slots and says what is wrong."""
    yield
    assert not [record.message for record in caplog.records if "reset" in record.message]


@pytest.fixture
def decoder() -> HashDecoder:
    return HashDecoder()


@pytest.fixture
def make_decoder() -> type[HashDecoder]:
    return HashDecoder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def running() -> Running:
    @asynccontextmanager
    async def run(
        session: HashDecoder, options: EngineOptions | None = None, observer: EngineObserver | None = None
    ) -> AsyncIterator[EngineHandle]:
        handle = EngineHandle(session, options or EngineOptions(), observer)
        handle.start()
        try:
            yield handle
        finally:
            await handle.stop(0)
            assert session.closed

    return run


@pytest.fixture
def collect() -> Callable[[EngineHandle, EngineRequest], Awaitable[tuple[tuple[int, ...], Finished]]]:
    async def collect(handle: EngineHandle, request: EngineRequest) -> tuple[tuple[int, ...], Finished]:
        ids: list[int] = []
        async for event in handle.generate(request):
            match event:
                case Tokens():
                    ids.extend(event.ids)
                case Finished():
                    return tuple(ids), event
        raise AssertionError("no Finished")

    return collect
