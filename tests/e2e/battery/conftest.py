"""A whole stack in processes of its own, and clients that write bytes: no library is between a test and the wire."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from narthex.keys import new_key
from narthex.scopes import ToolScope

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
FIXTURE = ROOT / "tests" / "e2e" / "conformance" / "fixture.py"
READY_S = 60
ANSWER_S = 20
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*")
HEADER = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+): ?([ -~\x80-\xff]*)")


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> int:
        """Of its JSON-RPC error."""
        return int(self.json["error"]["code"])

    @property
    def events(self) -> list[bytes]:
        """The data of each event, by a reader that knows no line end but CR, LF and both."""
        blocks = re.split(rb"\r\n\r\n|\n\n|\r\r", self.body)
        data = [
            [line[6:] for line in re.split(rb"\r\n|\n|\r", block) if line.startswith(b"data: ")] for block in blocks
        ]
        return [b"\n".join(lines) for lines in data if lines]


class Wire:
    """One connection. Answers are read strictly: whatever is no HTTP/1.1 where an answer must begin is a failure."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader = reader
        self.writer = writer
        self.host = host

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *lines: str,
        kind: str = "application/json",
        accept: str = "*/*",
    ) -> bytes:
        """The bytes of a plain request."""
        head = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", *lines]
        head += [f"Accept: {accept}"] if accept else []
        if method == "POST":
            head += [f"Content-Type: {kind}"] if kind else []
            head += [f"Content-Length: {len(body)}"]
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body

    async def post(self, body: bytes | object, *lines: str, path: str = "/mcp", **more: str) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send(self.request("POST", path, content, *lines, **more))
        return await self.answer()

    async def get(self, path: str, *lines: str, method: str = "GET", accept: str = "*/*") -> Answer:
        self.send(self.request(method, path, b"", *lines, accept=accept))
        return await self.answer(method)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer; interim ones are answers too."""
        async with asyncio.timeout(ANSWER_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        status = STATUS_LINE.fullmatch(first)
        assert status is not None, head
        found = [HEADER.fullmatch(line) for line in lines]
        assert all(found), head
        headers = [(one[1].decode().lower(), one[2].decode("latin-1")) for one in found if one]
        assert len(dict(headers)) == len(headers), f"headers come twice: {headers}"
        return int(status[1]), dict(headers)

    async def answer(self, method: str = "POST") -> Answer:
        status, headers = await self.head()
        if status in (204, 304) or method == "HEAD" or status < 200:
            return Answer(status, headers, b"")
        async with asyncio.timeout(ANSWER_S):
            if headers.get("transfer-encoding") == "chunked":
                assert "content-length" not in headers
                return Answer(status, headers, b"".join([piece async for piece in self.chunks()]))
            if "content-length" in headers:
                return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
            assert headers.get("connection") == "close", headers
            return Answer(status, headers, await self.reader.read())

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            size = await self.reader.readuntil(b"\r\n")
            assert re.fullmatch(rb"[0-9a-f]{1,8}\r\n", size), size
            piece = await self.reader.readexactly(int(size, 16) + 2)
            assert piece.endswith(b"\r\n")
            if len(piece) == 2:
                return
            yield piece[:-2]

    async def event(self) -> bytes:
        """The next chunk of a stream that holds an event."""
        async with asyncio.timeout(ANSWER_S):
            async for piece in self.chunks():
                if b"data: {" in piece:
                    return piece
        raise AssertionError("the stream has ended")

    async def closed(self) -> bytes:
        """What still comes before the other side hangs up."""
        async with asyncio.timeout(ANSWER_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def session(self, *lines: str, version: str = "2025-11-25", **capabilities: object) -> "Session":
        asked = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}}
        opened = await self.post(call("initialize", asked), *lines)
        assert opened.status == 200, opened
        headers = (f"Mcp-Session-Id: {opened.headers['mcp-session-id']}", f"Mcp-Protocol-Version: {version}", *lines)
        answer = await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, *headers)
        assert answer.status == 202
        return Session(opened.headers["mcp-session-id"], headers, opened.json["result"])


@dataclass(frozen=True, slots=True)
class Session:
    """What a client has of its session: the id, the lines that every request needs, and what initialize said."""

    id: str
    lines: tuple[str, ...]
    opened: dict[str, Any]


def call(method: str, params: object = None, id: object = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, **({} if params is None else {"params": params})}


@dataclass(frozen=True, slots=True)
class Running:
    """A process that listens."""

    process: subprocess.Popen[str]
    ready: dict[str, str]
    log: Path

    @property
    def http(self) -> str:
        return self.ready["http"]

    def resident(self, pid: int | None = None) -> int:
        """Bytes of memory of the process."""
        return int(Path(f"/proc/{pid or self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextlib.contextmanager
def running(log: Path, *command: object, env: dict[str, str] | None = None) -> Iterator[Running]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NARTHEX_")} | (env or {})
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environ
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert " ready " in line, f"{line!r}\n{log.read_text()}"
        yield Running(process, dict(word.split("=", 1) for word in line.split() if "=" in word), log)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=READY_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server with the demo model, the time server and the conformance fixture as upstreams."""
    folder = tmp_path_factory.mktemp("battery")
    config = folder / "mcp.json"
    upstreams = {
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
        "fixture": {"command": sys.executable, "args": [str(FIXTURE)]},
    }
    config.write_text(json.dumps({"mcpServers": upstreams}))
    with running(
        folder / "server.log", "narthex_server.main", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
        "--model", f"demo={MODEL}", "--mcp-config", config, "--threads", 1, "--cache-dir", folder / "cache",
        env={"NARTHEX_DELEGATE_TOKEN": SHARED},
    ) as server:  # fmt: skip
        yield server


SHARED = "what bridge and server share"


@pytest.fixture(scope="session")
def bridge(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A bridge that anyone on this machine may use."""
    log = tmp_path_factory.mktemp("bridge") / "log"
    with running(
        log, "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.ready["grpc"], "--log-level", "debug",
        "--body-timeout-s", 0.2, "--max-body-bytes", 1 << 20, "--resume-grace-s", 0.2,
        env={"NARTHEX_DELEGATE_TOKEN": SHARED},
    ) as bridge:  # fmt: skip
        yield bridge


@pytest.fixture(scope="session")
def keyed(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """A bridge behind keys, and these: ann's, one of another tenant, one for no tool but time's, one of two a day."""
    folder = tmp_path_factory.mktemp("keyed")
    made = {
        "ann": new_key("ann", "t1"),
        "bob": new_key("bob", "t2"),
        "narrow": new_key("narrow", "t1", tools=ToolScope(("time__*",))),
    }
    (folder / "keys.toml").write_text("".join(key.toml for _, key in made.values()))
    with running(
        folder / "log", "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.ready["grpc"],
        "--api-key-file", folder / "keys.toml", "--log-level", "debug", env={"NARTHEX_DELEGATE_TOKEN": SHARED},
    ) as bridge:  # fmt: skip
        yield bridge, {name: secret for name, (secret, _) in made.items()}


@pytest.fixture
def spawned(server: Running, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts bridges of one's own."""
    with contextlib.ExitStack() as stack:
        command = (
            "narthex_bridge.main",
            "--http",
            "127.0.0.1:0",
            "--server",
            server.ready["grpc"],
            "--log-level",
            "debug",
        )

        def spawn(*flags: object) -> Running:
            env = {"NARTHEX_DELEGATE_TOKEN": SHARED}
            return stack.enter_context(running(tmp_path / "bridge.log", *command, *flags, env=env))

        yield spawn


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Running], Awaitable[Wire]]]:
    """Opens connections, which are closed with the test."""
    opened: list[Wire] = []

    async def connect(running: Running) -> Wire:
        host, _, port = running.http.partition(":")
        opened.append(Wire(*await asyncio.open_connection(host, int(port)), running.http))
        return opened[-1]

    yield connect
    for wire in opened:
        wire.writer.close()


@pytest.fixture
async def wire(bridge: Running, connect: Callable[[Running], Awaitable[Wire]]) -> Wire:
    return await connect(bridge)


@pytest.fixture(scope="session")
def rpc() -> Callable[..., dict[str, Any]]:
    return call
