"""docs/clients.md, block by block: each runs as it stands and gives what the guide says.

Only addresses are other ones, so that the tests need no particular ports: `127.0.0.1:4321` and `127.0.0.1:50051` in a
block, and NARTHEX_SERVER in the environment for commands that rely on the default.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from narthex_server.tools.upstream.forms import parse_sources
from narthex_server.tools.upstream.source import Http, Process, Transport

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "clients.md"
MARKER = re.compile(r"<!-- (serve|run|output|config|file): ([\w.-]+)(?: \((\w+)\))? -->")
NEEDS = {
    "python-1": pytest.mark.system,
    "inspector": pytest.mark.system,
    "typescript": pytest.mark.polyglot,
    "typescript-key": pytest.mark.polyglot,
    "typescript-stubs": pytest.mark.polyglot,
}
RUN_S = 100


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block and what the comment before it says: what it is, its name, and which server is meant."""

    kind: str
    name: str
    server: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    """Every fenced block of the guide; those without a marker are of no kind."""
    marker, lines = None, iter(GUIDE.read_text("utf-8").splitlines())
    for line in lines:
        if line.startswith("```"):
            text = "\n".join(iter(lines.__next__, "```"))
            kind, name, server = marker.groups() if marker else ("", "", None)
            yield Block(kind, name, server or "open", line[3:], text)
            marker = None
        elif line:
            marker = MARKER.fullmatch(line)


BLOCKS = tuple(blocks())


def named(kind: str) -> Mapping[str, Block]:
    return {block.name: block for block in BLOCKS if block.kind == kind}


RUNS, OUTPUTS, CONFIGS, SERVERS = (named(kind) for kind in ("run", "output", "config", "serve"))


@dataclass(frozen=True, slots=True)
class Running:
    """A server of the guide: where it listens, and the environment of those who call it."""

    http: str
    grpc: str
    environ: Mapping[str, str]

    def here(self, text: str) -> str:
        return text.replace("127.0.0.1:4321", self.http).replace("127.0.0.1:50051", self.grpc)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder: a clone of the repository, as far as blocks need it, and the guide's files."""
    place = tmp_path_factory.mktemp("guide")
    for name in ("clients", "node_modules"):
        (place / name).symlink_to(ROOT / name)
    for name, block in named("file").items():
        (place / name).write_text(block.text)
    return place


@pytest.fixture(scope="module")
def started(place: Path) -> Iterator[Callable[[str], Running]]:
    """Starts a server as its block says, once."""
    running: dict[str, Running] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Running:
            if name not in running:
                running[name] = stack.enter_context(serving(SERVERS[name], place))
            return running[name]

        yield start


@contextlib.contextmanager
def serving(block: Block, place: Path) -> Iterator[Running]:
    programs = [Path(sys.executable).parent, ROOT / "node_modules" / ".bin"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NARTHEX_")}
    environ |= {"PATH": os.pathsep.join([*map(str, programs), environ["PATH"]])}
    anywhere = {f"NARTHEX_{name}": "127.0.0.1:0" for name in ("GRPC", "HTTP", "METRICS")}
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=place,
        env=environ | anywhere,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("narthex ready"), line
        fields = dict(word.split("=", 1) for word in line.split()[2:])
        environ["NARTHEX_SERVER"] = fields["grpc"]
        if block.name == "keys":
            environ["NARTHEX_API_KEY"] = (place / "me.key").read_text().strip()
        yield Running(fields["http"], fields["grpc"], environ)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=RUN_S)


def test_every_block_is_one_that_these_tests_run_and_every_marker_has_its_block():
    kinds = [(block.kind, block.name) for block in BLOCKS]
    assert not [block.text for block in BLOCKS if not block.kind]
    assert len(kinds) == len(set(kinds)) == len(re.findall("<!--", GUIDE.read_text("utf-8")))
    assert RUNS.keys() == OUTPUTS.keys(), "a block that nobody looks at proves nothing"
    assert all(RUNS[name].server == OUTPUTS[name].server for name in RUNS)
    assert {block.server for block in BLOCKS} == SERVERS.keys()
    assert NEEDS.keys() <= RUNS.keys()


@pytest.mark.parametrize("name", [pytest.param(name, marks=NEEDS.get(name, ())) for name in RUNS])
def test_a_block_does_what_the_guide_says(name, started, place, request):
    block = RUNS[name]
    server = started(block.server)
    text, environ = server.here(block.text), dict(server.environ)
    match block.language:
        case "sh":
            command = ["bash", "-euo", "pipefail", "-c", text]
        case "python":
            (place / f"guide-{name}.py").write_text(text)
            command = [sys.executable, f"guide-{name}.py"]
        case "js":
            (place / f"guide-{name}.mjs").write_text(text)
            command = ["node", f"guide-{name}.mjs"]
        case other:
            pytest.fail(f"nothing runs {other}")
    if name == "python-1":
        command.insert(1, "-S")
        environ["PYTHONPATH"] = str(request.getfixturevalue("python_v1"))
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stderr + done.stdout
    assert fits(done.stdout, OUTPUTS[name].text), done.stdout + done.stderr


def fits(output: str, expected: str) -> bool:
    """Whether an output is the expected one, in which `…` stands for anything."""
    pattern = ".*".join(map(re.escape, expected.strip().split("…")))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


@pytest.mark.parametrize("name", CONFIGS)
async def test_a_configuration_connects_a_client(name, started, place):
    server = started(CONFIGS[name].server)
    async with connected(transport(CONFIGS[name], server), server, place) as client, asyncio.timeout(RUN_S):
        clock = await client.call_tool("time__get_current_time", {"timezone": "Europe/Rome"})
    assert clock.structured_content["timezone"] == "Europe/Rome"


def transport(block: Block, server: Running) -> Transport:
    """The only server of a configuration, read by the parser of such files that narthex has itself.

    VS Code's form differs in one name; it and Cursor have their own spelling of what is put in.
    """
    document = json.loads(server.here(block.text))
    if isinstance(document.get("servers"), dict):
        asked = {entry["id"] for entry in document["inputs"] if entry["type"] == "promptString"}
        assert asked == set(re.findall(r"\$\{input:([\w-]+)\}", block.text))
        document = {"mcpServers": document["servers"]}
    spelled = re.sub(r"\$\{(env:\w+|input:[\w-]+)\}", "${NARTHEX_API_KEY}", json.dumps(document))
    (source,) = parse_sources(json.loads(spelled), block.name, server.environ)
    return source.transport


@contextlib.asynccontextmanager
async def connected(transport: Transport, server: Running, place: Path):
    """The official client, with exactly the command or the URL of a configuration."""
    match transport:
        case Process(command, args, env, cwd):
            environ = without_key(server) | dict(env)
            program = StdioServerParameters(command=command, args=list(args), env=environ, cwd=cwd or place)
            async with Client(program, mode="legacy") as client:
                yield client
        case Http(url, headers):
            async with (
                httpx2.AsyncClient(headers=dict(headers), timeout=RUN_S) as http,
                Client(streamable_http_client(url, http_client=http), mode="legacy") as client,
            ):
                yield client
        case other:
            pytest.fail(f"{other} cannot be connected to")


def without_key(server: Running) -> dict[str, str]:
    """The environment of a program that is told the key by its configuration or not at all."""
    return {name: value for name, value in server.environ.items() if name != "NARTHEX_API_KEY"}


async def test_a_client_that_drops_its_session_and_reads_one_event_gets_its_answers(started):
    """As mistral.rs's does over HTTP: no session id, params always, and of a stream the first data that is JSON."""
    server = started("open")
    source = transport(CONFIGS["mistralrs-http"], server)
    assert isinstance(source, Http)
    async with httpx2.AsyncClient(timeout=RUN_S, headers={"accept": "application/json, text/event-stream"}) as http:

        async def ask(number: int, method: str, **params: object) -> dict:
            body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            answer = (await http.post(source.url, json=body)).text
            data = [line[5:].strip() for line in answer.splitlines() if line.startswith("data:")] or [answer]
            message = json.loads(next(filter(None, data)))
            assert message["id"] == number, message
            return message["result"]

        about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}}
        await ask(1, "initialize", **about, clientInfo={"name": "mistral.rs", "version": "1"})
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await http.post(source.url, json=note)).status_code == 202
        assert "chat" in [tool["name"] for tool in (await ask(2, "tools/list"))["tools"]]
        clock = await ask(3, "tools/call", name="time__get_current_time", arguments={"timezone": "Europe/Rome"})
        assert "Europe/Rome" in clock["content"][0]["text"]
        said = await ask(4, "tools/call", name="chat", arguments={"messages": [{"role": "user", "content": "hello"}]})
        assert said["content"][0]["text"] and await ask(5, "ping") == {}
        resources = (await ask(6, "resources/list"))["resources"]
        assert all(one["uri"].startswith("workspace:///") for one in resources) and resources


@pytest.mark.parametrize(("name", "version"), [("mistralrs", "2025-11-25"), ("candle-vllm", "2024-11-05")])
def test_clients_that_take_the_next_line_for_the_answer_get_it(name, version, started, place):
    """mistral.rs's does so, and candle-vllm's knows only the first version and sends no params where it has none."""
    server = started("open")
    program = transport(CONFIGS[name], server)
    assert isinstance(program, Process)
    executable = shutil.which(program.command, path=server.environ["PATH"])
    assert executable, program.command
    process = subprocess.Popen(
        [executable, *program.args],
        cwd=place,
        env=without_key(server) | dict(program.env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def say(message: Mapping[str, object]) -> None:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()

    def ask(number: int, method: str, **params: object) -> dict:
        say({"id": number, "method": method} | ({"params": params} if params else {}))
        answer = json.loads(process.stdout.readline())
        assert answer["id"] == number, answer
        return answer["result"]

    with process:
        about = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": name, "version": "1"}}
        assert ask(1, "initialize", **about)["protocolVersion"] == version
        say({"method": "notifications/initialized"})
        assert "chat" in [tool["name"] for tool in ask(2, "tools/list")["tools"]]
        clock = ask(3, "tools/call", name="time__get_current_time", arguments={"timezone": "Europe/Rome"})
        assert "Europe/Rome" in clock["content"][0]["text"]
        process.stdin.close()
    assert process.returncode == 0
