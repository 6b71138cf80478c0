"""What a kept result costs, and what a batch saves: python -m bench results [--calls 5000] [--json FILE]

A call of a stdio echo through the catalog in this process: without the cache, not kept yet, and kept;
then 64 calls to `narthex server` over gRPC on one channel: one after the other, at the same time, and as one batch.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import grpc.aio
import uvloop
from narthex.v1 import tool_pb2, tool_pb2_grpc
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.results.cache import ResultCache
from narthex_server.tools.results.rule import CacheRule, Keeping
from narthex_server.tools.results.step import CacheStep
from narthex_server.tools.upstream.source import Process, ServerSource
from narthex_server.tools.upstream.supervisor import Upstream

from bench.forwarding import ARGUMENTS, COMMAND, CONTEXT, narthex_server

CALLS = 64
Figures = dict[str, dict[str, float]]


async def timed(call: Callable[[int], Awaitable[object]], times: int) -> dict[str, float]:
    """Of single calls, in milliseconds."""
    for number in range(200):
        await call(-1 - number)
    took = []
    for number in range(times):
        began = perf_counter()
        await call(number)
        took.append(1e3 * (perf_counter() - began))
    return {"p50": median(took), "p99": quantiles(took, n=100)[98]}


async def inside(times: int) -> Figures:
    async with AsyncExitStack() as stack:

        async def catalog(keeping: bool) -> Catalog:
            source = ServerSource("echo", Process(COMMAND[0], COMMAND[1:]), cache=CacheRule(("*",), 3600.0))
            steps = [CacheStep(Keeping(False, 60), ResultCache(), lambda name: made.server(name))] if keeping else []
            made = Catalog(servers=[Upstream(source)], steps=steps)
            await made.start(20)
            stack.push_async_callback(made.stop)
            return made

        plain, kept = await catalog(False), await catalog(True)
        return {
            "without the cache": await timed(lambda _: called(plain, ARGUMENTS), times),
            "not kept yet": await timed(lambda n: called(kept, b'{"text":"%d"}' % n), times),
            "kept": await timed(lambda _: called(kept, ARGUMENTS), times),
        }


async def called(catalog: Catalog, arguments: bytes) -> None:
    async for _ in catalog.call("echo__echo", arguments, CONTEXT):
        pass


async def by_grpc(times: int) -> Figures:
    async with AsyncExitStack() as stack:
        server = await narthex_server(stack)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        stub = tool_pb2_grpc.ToolServiceStub(channel)
        single = tool_pb2.CallToolRequest(name="echo__echo", arguments=ARGUMENTS)
        invocation = tool_pb2.ToolInvocation(name="echo__echo", arguments=ARGUMENTS)
        batch = tool_pb2.CallToolsRequest(calls=[invocation] * CALLS)

        async def one() -> None:
            async for _ in stub.CallTool(single):
                pass

        async def in_turn() -> None:
            for _ in range(CALLS):
                await one()

        async def together() -> None:
            await asyncio.gather(*(one() for _ in range(CALLS)))

        async def batched() -> None:
            assert sum([event.event.HasField("result") async for event in stub.CallTools(batch)]) == CALLS

        ways = {"one after the other": in_turn, "at the same time": together, "as one batch": batched}
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(times):  # in turns, so that all meet the same machine
            for name, way in ways.items():
                began = perf_counter()
                await way()
                took[name].append(1e3 * (perf_counter() - began))
        return {name: {"p50": median(each[1:]), "least": min(each)} for name, each in took.items()}


def table(title: str, figures: Figures) -> None:
    columns = next(iter(figures.values()))
    print(f"\n| {title} | {' | '.join(f'{name}, ms' for name in columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in figures.items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row.values())} |")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(sys.argv[1:])
    figures = {"a call": await inside(options.calls), f"{CALLS} calls": await by_grpc(21)}
    for title, rows in figures.items():
        table(title, rows)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    uvloop.run(main())
