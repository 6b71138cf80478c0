"""`narthex server`, through gRPC."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
from narthex.v1 import common_pb2, generation_pb2, generation_pb2_grpc

from bench.servers.server import READY_S, process

MODEL = "model"


class NarthexServer:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = generation_pb2_grpc.GenerationServiceStub(channel)

    async def stream(self, prompt: Sequence[int], tokens: int) -> list[float]:
        spec = generation_pb2.GenerationSpec(
            model=MODEL,
            token_ids=common_pb2.TokenIds(ids=prompt),
            sampling=generation_pb2.SamplingOptions(temperature=0),
            stopping=generation_pb2.StoppingOptions(max_tokens=tokens, ignore_eos=True),
            response=generation_pb2.ResponseOptions(token_ids=True),
        )
        times: list[float] = []
        async for response in self._stub.GenerateStream(generation_pb2.GenerateStreamRequest(spec=spec)):
            times += [time.perf_counter()] * len(response.text_delta.token_ids)
        return times


@contextlib.asynccontextmanager
async def narthex_server(
    path: Path, slots: int, size: int, threads: int, compute: str, pause: float, log: Path
) -> AsyncIterator[NarthexServer]:
    # Without drafts: random weights repeat themselves, so that more guesses are right than with real ones.
    command = [
        sys.executable, "-m", "narthex.cli.main", "server", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
        "--model", f"{MODEL}={path}", "--max-slots", str(slots), "--max-context", str(size),
        "--threads", str(threads), "--compute", compute, "--no-speculate",
        "--longest-pause", str(pause),
    ]  # fmt: skip
    async with process(command, log, os.environ) as child:
        assert child.stdout is not None
        line = (await asyncio.wait_for(child.stdout.readline(), READY_S)).decode()
        ready = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if "grpc" not in ready:
            raise RuntimeError(f"narthex server did not start: {log}")
        async with grpc.aio.insecure_channel(ready["grpc"]) as channel:
            yield NarthexServer(channel)
