"""A real engine over a decoder that says what it is told to, with a golden model's tokenizer and template; and the
server's own tool service, with interceptors and catalog, over tools made for tests."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from narthex_server.config.server import ServerConfig
from narthex_server.engine.handle import EngineHandle
from narthex_server.interceptors.around import Stack
from narthex_server.interceptors.drain import DrainInterceptor
from narthex_server.listening import grpc_server, interceptors, key_ring, relaying
from narthex_server.pipelines.models import TextModel
from narthex_server.services.registration import register
from narthex_server.services.relay import Relay
from narthex_server.services.tool import ToolService
from narthex_server.text.assets import TextAssets
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.reach import Reach
from narthex_server.tools.tool import CallContext, TextDelta, Tool, ToolEvent, ToolResult
from narthex_server.weights.formats import FORMATS
from narthex_server.weights.tensors import StoredTensor
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

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


def text_of(text: str) -> ToolResult:
    return ToolResult(json.dumps([{"type": "text", "text": text}]).encode())


@dataclass
class Scenes:
    """What the tools of a RunningTools do, and what has become of their calls."""

    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    produced: int = 0

    async def echo(self, arguments: dict[str, str], context: CallContext) -> AsyncIterator[ToolEvent]:
        yield text_of(arguments["text"])

    async def who(self, arguments: dict[str, str], context: CallContext) -> AsyncIterator[ToolEvent]:
        yield text_of(f"{context.principal.name}/{context.principal.tenant} {context.request_id}")

    async def hang(self, arguments: dict[str, str], context: CallContext) -> AsyncIterator[ToolEvent]:
        try:
            yield TextDelta("working")
            self.hanging.set()
            await self.release.wait()
            yield text_of("released")
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def flood(self, arguments: dict[str, str], context: CallContext) -> AsyncIterator[ToolEvent]:
        """`count` pieces of `size` characters."""
        for _ in range(int(arguments["count"])):
            self.produced += 1
            yield TextDelta("x" * int(arguments["size"]))
        yield text_of("flooded")

    async def broken(self, arguments: dict[str, str], context: CallContext) -> AsyncIterator[ToolEvent]:
        raise ValueError("secret of the server")
        yield


class SceneTool:
    """One of the scenes as a native tool; every argument is a string."""

    def __init__(self, scenes: Scenes, name: str, *arguments: str) -> None:
        properties = {argument: {"type": "string"} for argument in arguments}
        schema = {"type": "object", "properties": properties, "required": list(arguments)}
        self.tool = Tool(name, "", name, json.dumps(schema).encode())
        self._scene = getattr(scenes, name)

    def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
        return self._scene(json.loads(arguments), context)


@dataclass
class RunningTools:
    """A server of tools on a real port."""

    address: str
    scenes: Scenes
    server: grpc.aio.Server
    relay: Relay
    registry: CollectorRegistry

    def count(self, method: str, code: str) -> float:
        """How many calls of a method of ToolService ended with a code, in Go's spelling."""
        labels = {"grpc_service": "narthex.v1.ToolService", "grpc_method": method, "grpc_code": code}
        kind = "bidi_stream" if method == "RelayCalls" else "server_stream"
        return self.registry.get_sample_value("grpc_server_handled_total", {"grpc_type": kind, **labels}) or 0.0


StartTools = Callable[..., AbstractAsyncContextManager[RunningTools]]


@pytest.fixture
def start_tools() -> StartTools:
    """Starts a tool server, composed as `narthex server` composes it, on a port; settings are ServerConfig's."""

    @asynccontextmanager
    async def start(port: int = 0, **settings: object) -> AsyncIterator[RunningTools]:
        config, registry, scenes = ServerConfig(**settings), CollectorRegistry(), Scenes()
        reach = Reach()
        around = interceptors(config, key_ring(config), registry, reach)
        server, relay = grpc_server(config, Stack(DrainInterceptor(), around)), relaying(config, around)
        tools = [
            SceneTool(scenes, "echo", "text"), SceneTool(scenes, "who"), SceneTool(scenes, "hang"),
            SceneTool(scenes, "flood", "count", "size"), SceneTool(scenes, "broken"),
        ]  # fmt: skip
        register(server, {"ToolService": ToolService(Catalog(natives=tools), relay, reach)})
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield RunningTools(f"127.0.0.1:{bound}", scenes, server, relay, registry)
        finally:
            await server.stop(None)

    return start
