"""Sessions that last: many clients of every kind for minutes, and whether anything is lost, wrong or left behind.

    python -m bench sessions [--minutes 10] [--sessions 100] [--idle 1000] [--json FILE]

Server and bridge are processes of their own, with the demo model, the time server and a server that asks its clients
things; this process is all the clients. Every answer is held against what was asked. With --idle so many sessions wait
on an open stream instead, and what each costs is measured.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from bench.servers.gateway import Connection, Process, process, rpc, spread

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
FIXTURE = ROOT / "tests" / "e2e" / "conformance" / "fixture.py"
STATELESS, META = "2026-07-28", "io.modelcontextprotocol/"
ABLE = {"elicitation": {}, "sampling": {}, "roots": {}}
WARM_UP_S = 20.0  # until caches, pools and the allocator have what they take once
LOST_S = 60.0  # an answer that takes longer is lost


class Wrong(Exception):
    """An answer that is not what was asked for."""


@dataclass(slots=True)
class Seen:
    """What has happened so far, by kind of exchange."""

    done: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    took: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    async def one(self, kind: str, exchange: Awaitable[None]) -> None:
        began = time.perf_counter_ns()
        try:
            async with asyncio.timeout(LOST_S):
                await exchange
        except (Wrong, TimeoutError, OSError, EOFError, ValueError, KeyError) as error:
            self.failed[kind] += 1
            self.told[f"{kind}: {type(error).__name__}: {str(error)[:200]}"] += 1
        else:
            self.done[kind] += 1
            self.took[kind].append(time.perf_counter_ns() - began)


def events(piece: bytes) -> list[tuple[str, Any]]:
    """The ids and messages of a piece of a stream, which holds whole events."""
    found = []
    for block in piece.split(b"\n\n"):
        lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
        if lines.get(b"data", b"").strip():
            found.append((lines.get(b"id", b"").decode(), json.loads(lines[b"data"])))
    return found


class Client:
    """One session and its exchanges; each opens the connections that it needs."""

    def __init__(self, address: str, number: int) -> None:
        self._address = address
        self._chance = random.Random(number)
        self._numbers = itertools.count(1)
        self._headers = ""

    async def open(self) -> None:
        async with Connection(self._address) as connection:
            await connection.open_session(**ABLE)
            self._headers = connection.headers

    @contextlib.asynccontextmanager
    async def _connection(self, headers: str | None = None) -> AsyncIterator[Connection]:
        async with Connection(self._address) as connection:
            connection.headers = self._headers if headers is None else headers
            yield connection

    async def run(self, seen: Seen, until: float) -> None:
        kinds = (
            self.echo, self.echo, self.progress, self.resource, self.prompt, self.elicitation, self.cancellation,
            self.reconnection, self.stateless, self.chat, self.stream_left, self.listing,
        )  # fmt: skip
        while time.monotonic() < until:
            exchange = self._chance.choice(kinds)
            await seen.one(exchange.__name__, exchange())
            await asyncio.sleep(self._chance.uniform(0, 0.2))

    async def echo(self) -> None:
        zone = self._chance.choice(("UTC", "Asia/Tokyo", "Europe/Paris"))
        async with self._connection() as connection:
            for _ in range(3):
                message = self._call("time__get_current_time", timezone=zone)
                result = _result(await connection.call("/mcp", message), message)
                _expect(zone in result["content"][0]["text"], result)

    async def progress(self) -> None:
        message = self._call("fixture__test_tool_with_progress")
        got = [event async for _, event in self._events(message)]
        steps = [event["params"]["progress"] for event in got[:-1]]
        _expect(steps == [0, 50, 100] and got[-1]["id"] == message["id"], got)

    async def resource(self) -> None:
        key = str(self._chance.randrange(10**9))
        message = self._ask("resources/read", {"uri": f"test://template/{key}/data"})
        async with self._connection() as connection:
            result = _result(await connection.call("/mcp", message), message)
        _expect(json.loads(result["contents"][0]["text"])["id"] == key, result)

    async def prompt(self) -> None:
        first = f"\u2028 {self._chance.randrange(10**9)}"
        arguments = {"arg1": first, "arg2": "b"}
        message = self._ask("prompts/get", {"name": "fixture__test_prompt_with_arguments", "arguments": arguments})
        async with self._connection() as connection:
            result = _result(await connection.call("/mcp", message), message)
        _expect(first in result["messages"][0]["content"]["text"], result)

    async def listing(self) -> None:
        message = self._ask(self._chance.choice(("tools/list", "resources/list", "prompts/list")), {})
        async with self._connection() as connection:
            result = _result(await connection.call("/mcp", message), message)
        _expect(bool(next(iter(result.values()))), result)

    async def elicitation(self) -> None:
        name, asked = f"Ann {self._chance.randrange(10**9)}", 0
        message = self._call("fixture__test_input_required_result_elicitation")
        async for _, event in self._events(message):
            if event.get("method") == "elicitation/create":
                asked += 1
                answer = {"action": "accept", "content": {"name": name}}
                async with self._connection() as connection:
                    sent = {"jsonrpc": "2.0", "id": event["id"], "result": answer}
                    _expect((await connection.send("/mcp", sent))["status"] == "202", event)
            elif "id" in event:
                _expect(asked == 1 and name in json.dumps(event["result"]), event)
                return
        raise Wrong("the stream ended without an answer")

    async def cancellation(self) -> None:
        message = self._call("fixture__test_wait")
        async for _, event in self._events(message):
            if "id" in event:
                _expect(event["error"]["code"] == -32800, event)
                return
            stop = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": message["id"]}}
            async with self._connection() as connection:
                _expect((await connection.send("/mcp", stop))["status"] == "202", event)
        raise Wrong("the stream ended without an answer")

    async def reconnection(self) -> None:
        """Leaves after some events and comes back for the others: every step once, and the answer."""
        message, steps, place = self._call("fixture__test_tool_with_progress"), [], ""
        leave = self._chance.randrange(1, 4)
        async for place, event in self._events(message):  # noqa: B007  the last place is used below
            if "id" in event:
                return
            steps.append(event["params"]["progress"])
            if len(steps) == leave:
                break
        async with self._connection() as connection:
            connection.headers += f"Last-Event-ID: {place}\r\n"
            headers = await connection.send("/mcp", None, "GET")
            _expect(headers["status"] == "200", headers)
            async for piece in connection.chunks():
                for _, event in events(piece):
                    if "id" not in event:
                        steps.append(event["params"]["progress"])
                    else:
                        _expect(steps == [0, 50, 100] and event["id"] == message["id"], [steps, event])
                        return
        raise Wrong("the stream ended without an answer")

    async def stateless(self) -> None:
        """Asks without a session, and again with what was wanted."""
        name, tool = f"Bob {self._chance.randrange(10**9)}", "fixture__test_input_required_result_elicitation"
        mirrored = f"Mcp-Protocol-Version: {STATELESS}\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
        meta = {f"{META}protocolVersion": STATELESS, f"{META}clientCapabilities": ABLE}
        asking: dict[str, Any] = {"name": tool, "arguments": {}, "_meta": meta}
        async with self._connection(mirrored) as connection:
            message = self._ask("tools/call", asking)
            wanted = _result(await connection.call("/mcp", message), message)
            _expect(wanted["resultType"] == "input_required", wanted)
            given = {id: {"action": "accept", "content": {"name": name}} for id in wanted["inputRequests"]}
            message = self._ask(
                "tools/call", asking | {"inputResponses": given, "requestState": wanted["requestState"]}
            )
            result = _result(await connection.call("/mcp", message), message)
        _expect(name in result["content"][0]["text"], result)

    async def chat(self) -> None:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Hello!"}],
            "max_tokens": 12,
            "temperature": 0,
        }
        async with self._connection("") as connection:
            whole = json.loads(await connection.call("/v1/chat/completions", body))["choices"][0]["message"]["content"]
            await connection.send("/v1/chat/completions", body | {"stream": True})
            text = b"".join([piece async for piece in connection.chunks()])
        lines = [line[6:] for line in text.split(b"\n") if line.startswith(b"data: {")]
        chunks = [choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"]]
        _expect("".join(chunks) == whole and b"[DONE]" in text, [whole, chunks])

    async def stream_left(self) -> None:
        """Goes in the middle of a text that would be long."""
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "Hello!"}],
            "stream": True,
            "ignore_eos": True,
        }
        async with self._connection("") as connection:
            headers = await connection.send("/v1/chat/completions", body | {"max_tokens": 1000})
            _expect(headers["status"] == "200", headers)
            async for _ in connection.chunks():
                return

    async def _events(self, message: dict[str, Any]) -> AsyncIterator[tuple[str, Any]]:
        async with self._connection() as connection:
            headers = await connection.send("/mcp", message)
            _expect(headers["status"] == "200", headers)
            if "content-length" in headers:
                yield "", json.loads(await connection.read(headers))
                return
            async for piece in connection.chunks():
                for event in events(piece):
                    yield event

    def _ask(self, method: str, params: object) -> dict[str, Any]:
        return {**rpc(method, params), "id": next(self._numbers)}

    def _call(self, tool: str, **arguments: object) -> dict[str, Any]:
        return self._ask("tools/call", {"name": tool, "arguments": arguments, "_meta": {"progressToken": 1}})


def _expect(right: bool, found: object) -> None:
    if not right:
        raise Wrong(json.dumps(found)[:300])


def _result(body: bytes, message: dict[str, Any]) -> dict[str, Any]:
    answer = next(event for _, event in events(body) if "id" in event) if body.startswith(b"id:") else json.loads(body)
    _expect(answer.get("id") == message["id"] and "result" in answer, answer)
    _expect(answer["result"].get("isError") is not True, answer)
    found: dict[str, Any] = answer["result"]
    return found


async def metrics(address: str, *names: str) -> dict[str, float]:
    """Sums of metrics over their labels."""
    async with Connection(address) as connection:
        text = (await connection.read(await connection.send("/metrics", None, "GET"))).decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(name)) for name in names}


async def state(server: Process, bridge: Process) -> dict[str, Any]:
    held = await metrics(bridge.address, "narthex_bridge_streams{", "narthex_bridge_sessions")
    processes = {"server": server, "bridge": bridge}
    found = {f"{name} MiB": round(one.resident_bytes() / 2**20, 1) for name, one in processes.items()}
    found |= {f"{name} fds": one.descriptors() for name, one in processes.items()}
    found |= {f"{name} threads": one.threads() for name, one in processes.items()}
    return found | {"sessions": held["narthex_bridge_sessions"], "streams": held["narthex_bridge_streams{"]}


async def soak(server: Process, bridge: Process, sessions: int, minutes: float) -> dict[str, Any]:
    clients = [Client(bridge.address, number) for number in range(sessions)]
    await asyncio.gather(*(client.open() for client in clients))
    report: dict[str, Any] = {}

    async def work(seconds: float) -> Seen:
        seen, until = Seen(), time.monotonic() + seconds
        await asyncio.gather(*(client.run(seen, until) for client in clients))
        return seen

    await work(WARM_UP_S)
    report["at start"] = await state(server, bridge)
    halves = [await work(minutes * 30)]
    report["in the middle"] = await state(server, bridge)
    halves.append(await work(minutes * 30))
    await asyncio.sleep(2)  # those that left last are noticed
    report["at end"] = await state(server, bridge)
    seen = Seen()
    for half in halves:
        seen.done += half.done
        seen.failed += half.failed
        seen.told += half.told
        for kind, took in half.took.items():
            seen.took[kind] += took
    report["exchanges"] = {kind: {"done": seen.done[kind], **spread(seen.took[kind])} for kind in sorted(seen.done)}
    report["all"] = {"done": seen.done.total(), "failed": seen.failed.total()}
    report["failures"] = dict(seen.told.most_common(20))
    return report


async def idle(bridge: Process, count: int) -> dict[str, Any]:
    """What a session that only waits on its stream costs the bridge."""
    async with contextlib.AsyncExitStack() as stack:
        async with Connection(bridge.address) as connection:
            await connection.open_session()
        resident, descriptors = bridge.resident_bytes(), bridge.descriptors()
        for _ in range(count):
            connection = await stack.enter_async_context(Connection(bridge.address))
            await connection.open_session()
            assert (await connection.send("/mcp", None, "GET"))["status"] == "200"
        held = await metrics(bridge.address, "narthex_bridge_streams{", "narthex_bridge_sessions")
        return {
            "sessions": held["narthex_bridge_sessions"],
            "streams": held["narthex_bridge_streams{"],
            "KB each": round((bridge.resident_bytes() - resident) / count / 1024, 1),
            "fds each": round((bridge.descriptors() - descriptors) / count, 2),
        }


@contextlib.asynccontextmanager
async def stack(folder: Path) -> AsyncIterator[tuple[Process, Process]]:
    upstreams = {
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
        "fixture": {"command": sys.executable, "args": [str(FIXTURE)]},
    }
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": upstreams}))
    serving = (
        "-m", "narthex_server.main", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--model", f"demo={MODEL}",
        "--mcp-config", folder / "mcp.json", "--threads", "1", "--cache-dir", folder / "cache",
        "--max-waiting", "1000",
    )  # fmt: skip
    async with process(*serving) as server:
        # Few events are kept, so that what grows is not what is meant to.
        kept = ("--events-total-bytes", str(1 << 19))
        bridging = ("-m", "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.address, *kept)
        async with process(*bridging) as bridge:
            yield server, bridge


async def measure(make: Callable[[Process, Process], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        async with stack(Path(folder)) as (server, bridge):
            return await make(server, bridge)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--idle", type=int, help="measure so many sessions that wait instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.idle:
        report = uvloop.run(measure(lambda _, bridge: idle(bridge, options.idle)))
    else:
        report = uvloop.run(measure(lambda *both: soak(*both, options.sessions, options.minutes)))
    print(f"load average {os.getloadavg()[0]:.1f}")
    for name, figures in report.items():
        print(f"{name}: {figures}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report.get("failures") else 0


if __name__ == "__main__":
    sys.exit(main())
