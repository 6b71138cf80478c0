"""A server that chats and calls tools, as a client and as a neighbour in /proc see it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from narthex.cli.environment import server_environment
from narthex.v1 import generation_pb2_grpc, tool_pb2_grpc

from bench.peers.peer import ROOT
from bench.servers.gateway import Process
from bench.servers.server import READY_S, process


@dataclass(frozen=True, slots=True)
class ChatServer:
    """The stubs of a started server, where its metrics are, and its process."""

    generation: generation_pb2_grpc.GenerationServiceStub
    tools: tool_pb2_grpc.ToolServiceStub
    metrics: str
    process: Process

    def peak_bytes(self) -> int:
        """The most memory that it ever had resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextlib.asynccontextmanager
async def chat_server(module: str, options: list[str], log: Path) -> AsyncIterator[ChatServer]:
    """Runs a module with these options and the environment that narthex's servers have."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = server_environment(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}
    async with process([sys.executable, "-m", module, *options], log, variables) as child:
        assert child.stdout is not None
        line = (await asyncio.wait_for(child.stdout.readline(), READY_S)).decode()
        ready = dict(part.split("=", 1) for part in line.split() if "=" in part)
        if "grpc" not in ready:
            raise RuntimeError(f"{module} did not start: {last_words(log)}")
        async with grpc.aio.insecure_channel(ready["grpc"]) as channel:
            yield ChatServer(
                generation_pb2_grpc.GenerationServiceStub(channel),
                tool_pb2_grpc.ToolServiceStub(channel),
                ready["metrics"],
                Process(ready["grpc"], child.pid),
            )


def last_words(log: Path) -> str:
    return (log.read_text().strip().splitlines() or ["it said nothing"])[-1]
