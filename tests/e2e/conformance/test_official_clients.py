"""One session of each official client against the bridge; a test for each thing it has done."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

CLIENTS = Path(__file__).with_name("clients")
PYTHON_V1 = "mcp==1.30.0"
INSTALL_S = 110
SESSION_S = 110


@dataclass(frozen=True, slots=True)
class Session:
    """Which client speaks, its own name for the way, the endpoint's path, and what the server asks its upstream for."""

    client: str
    way: str
    path: str
    upstream: str = ""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.client, self.way, self.upstream)))


UPSTREAMS = ("", "2025-11-25")
"""Protocols that the server asks the fixture for; "" is any."""

WAYS = (
    Session("python_v1.py", "http", "/mcp"),
    Session("python_v1.py", "sse", "/sse"),
    Session("python_v2.py", "auto", "/mcp"),
    Session("python_v2.py", "legacy", "/mcp"),
    Session("python_v2.py", "sse", "/sse"),
    Session("typescript.mjs", "http", "/mcp"),
    Session("typescript.mjs", "sse", "/sse"),
)
SESSIONS = [replace(way, upstream=upstream) for upstream in UPSTREAMS for way in WAYS]
EXPECTED = {
    "text": {"isError": False, "text": "This is a simple text response for testing."},
    "failing": {"isError": True, "text": "This tool intentionally returns an error for testing"},
    "progress": [[0, 100], [50, 100], [100, 100]],
    "logs": ["Tool execution started", "Tool processing data", "Tool execution completed"],
    "read": "This is the content of the static text resource.",
    "template": '{"id": "7", "templateTest": true, "data": "Data for ID: 7"}',
    "completion": ["paris", "park", "party"],
    "sampling": {"isError": False, "text": "LLM response: sampled: Say it"},
    "elicitation": {
        "isError": False,
        "text": 'User response: action=accept, content={"username": "username", "email": "email"}',
    },
    "roots": {"isError": False, "text": "file:///somewhere"},
    "rounds": {"isError": False, "text": "name likes color."},
    "cancelled": 1,
}
HOLDS = {
    "tools": "test_simple_text",
    "resources": "test://static-text",
    "prompts": "test_prompt_with_arguments",
    "updated": "Changed ",
    "changed": "(changed ",
}


@pytest.fixture(scope="session")
def python_v1() -> Path:
    """Where Python's client 1.x stands, apart from the 2.x of this environment; kept for the next time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "narthex-tests"
    home = cache / f"{PYTHON_V1}-{sys.version_info.major}.{sys.version_info.minor}"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = home.with_suffix(f".{os.getpid()}")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(fresh), PYTHON_V1]
        subprocess.run(install, check=True, timeout=INSTALL_S)
        fresh.rename(home)
    return home


@pytest.fixture(scope="session")
def held(bridges, node, python_v1):
    """The report of a session, held once."""
    reports: dict[Session, dict] = {}

    def hold(session: Session) -> dict:
        if session not in reports:
            command, environ = [sys.executable], os.environ | {"PYTHONPATH": ""}
            if session.client == "python_v1.py":
                command, environ = [sys.executable, "-S"], os.environ | {"PYTHONPATH": str(python_v1)}
            if session.client == "typescript.mjs":
                command = [node]
            command += [str(CLIENTS / session.client), session.way, bridges(session.upstream) + session.path]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SESSION_S, env=environ)
            assert done.returncode == 0, done.stderr + done.stdout
            reports[session] = json.loads(done.stdout)
        return reports[session]

    return hold


@pytest.mark.parametrize("step", EXPECTED)
@pytest.mark.parametrize("session", SESSIONS, ids=str)
def test_a_session_gets_what_the_fixture_says(held, session, step):
    assert held(session)[step] == EXPECTED[step]


@pytest.mark.parametrize("step", HOLDS)
@pytest.mark.parametrize("session", SESSIONS, ids=str)
def test_a_session_finds_what_the_fixture_has(held, session, step):
    assert HOLDS[step] in held(session)[step]


@pytest.mark.parametrize("session", SESSIONS, ids=str)
def test_a_session_gets_prompts_filled_in_and_typed_errors(held, session):
    report = held(session)
    assert report["prompt"].get("text") == "Prompt with arguments: arg1='one', arg2='two'"
    assert report["missing"].get("code") in (-32602, -32002)


@pytest.mark.parametrize(
    ("session", "version"),
    [
        (Session("python_v2.py", "auto", "/mcp"), "2026-07-28"),
        (Session("python_v2.py", "legacy", "/mcp"), "2025-11-25"),
    ],
    ids=str,
)
def test_the_newest_version_is_spoken_that_both_know(held, session, version):
    assert held(session)["version"] == version
