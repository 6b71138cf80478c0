import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODULES = ROOT / "node_modules"
FIXTURE = str(HERE / "fixture.py")
SUITES = json.loads((HERE / "suites.json").read_text())
SUITE_LIMIT_S = 90
READY_S = 60
STOP_S = 30

Checks = list[dict[str, object]]


def needed(path: Path) -> str:
    """These tests fail where something is missing; they never skip."""
    assert path.exists(), f"{path} is missing: run `npm install` in {ROOT} first (.ci/run does)"
    return str(path)


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a suite has left: its checks by scenario, and what it printed."""

    checks: dict[str, Checks]
    output: str


@pytest.fixture(scope="session")
def node() -> str:
    return needed(MODULES / ".bin" / "node")


@contextlib.contextmanager
def serving(*command: str) -> Iterator[dict[str, str]]:
    """The addresses on the ready line of a process."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NARTHEX_")}
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert " ready " in line, f"{' '.join(command)} did not start: {line!r}"
        yield dict(word.split("=", 1) for word in line.split() if "=" in word)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@pytest.fixture(scope="session")
def bridges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """MCP endpoints of bridges whose only upstream is the fixture, one for each protocol spoken to it ("" is any)."""
    with contextlib.ExitStack() as running:
        urls: dict[str, str] = {}

        def url(upstream: str) -> str:
            if upstream not in urls:
                command = stack(tmp_path_factory.mktemp("bridge"), upstream)
                urls[upstream] = f"http://{running.enter_context(serving(*command))['http']}"
            return urls[upstream]

        yield url


@pytest.fixture
def closing_bridge(tmp_path: Path) -> Iterator[str]:
    """One that closes streams of calls on purpose, so that their clients have to come back."""
    settings = tmp_path / "narthex.toml"
    settings.write_text("[bridge]\nstream_after_s = 0.05\nstream_lifetime_s = 0.35\nretry_s = 0.5\n")
    with serving(*stack(tmp_path, ""), "--config", str(settings)) as ready:
        yield f"http://{ready['http']}"


def stack(folder: Path, upstream: str) -> tuple[str, ...]:
    """The command that serves the fixture."""
    config = folder / "mcp.json"
    config.write_text(json.dumps({"servers": [server(upstream)]}))
    anywhere = [word for flag in ("--grpc", "--http", "--metrics") for word in (flag, "127.0.0.1:0")]
    return ("-m", "narthex.cli.main", "serve", *anywhere, "--mcp-config", str(config))


def server(upstream: str) -> dict[str, object]:
    """The fixture in mistral.rs's form, whose empty prefix leaves the names as they are."""
    process = {"type": "Process", "command": sys.executable, "args": [FIXTURE]}
    pinned = {"protocol": upstream} if upstream else {}
    return {"name": "fixture", "source": process, "tool_prefix": "", **pinned}


@pytest.fixture(scope="session")
def fixture_alone() -> Iterator[str]:
    with serving(FIXTURE, "--http", "0") as ready:
        yield f"http://{ready['http']}"


@pytest.fixture(scope="session")
def run_suite(node: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Run]:
    """Runs a suite of the list against an MCP endpoint, once in a session."""
    runs: dict[tuple[str, str], Run] = {}

    def run(suite: str, url: str) -> Run:
        if (suite, url) not in runs:
            runs[suite, url] = executed(node, suite, url, tmp_path_factory.mktemp("suite"))
        return runs[suite, url]

    return run


@pytest.fixture
def run_scenario(node: str, tmp_path: Path) -> Callable[[str, str, str], Checks]:
    """The checks of one scenario of a suite against an MCP endpoint."""

    def run(suite: str, url: str, scenario: str) -> Checks:
        ran = executed(node, suite, url, tmp_path, "--scenario", scenario)
        assert scenario in ran.checks, ran.output[-2000:]
        return ran.checks[scenario]

    return run


def executed(node: str, suite: str, url: str, folder: Path, *more: str) -> Run:
    settings = SUITES[suite]
    program = needed(MODULES / settings["package"] / "dist" / "index.js")
    command = [node, program, "server", "--url", url, *settings["arguments"], "--output-dir", str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SUITE_LIMIT_S)
    checks = {
        scenario[1]: json.loads(result.read_text())
        for result in folder.glob("*/checks.json")  # a scenario that broke down leaves none
        if (scenario := re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", result.parent.name))
    }
    return Run(checks, done.stdout + done.stderr)
