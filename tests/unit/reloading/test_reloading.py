import asyncio
import json
import os
import signal
import sys

import pytest
from narthex_server.config.server import ServerConfig
from narthex_server.forwarding import configured
from narthex_server.reloading import HangUp, Reloads
from narthex_server.tools.acts import SYSTEM, Act
from narthex_server.watched_file import WatchedFile

ONE = json.dumps({"mcpServers": {"one": {"command": "run"}}})
TWO = json.dumps({"mcpServers": {"one": {"command": "run"}, "two": {"command": "run"}}})


class Applied:
    """A fleet that notes what it is told to be."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []

    async def apply(self, sources) -> bool:
        self.names.append([source.name for source in sources])
        return len(self.names) < 2 or self.names[-1] != self.names[-2]


class Outcomes:
    def __init__(self) -> None:
        self.told: asyncio.Queue[str] = asyncio.Queue()

    def on_reload(self, outcome: str, moment: float) -> None:
        self.told.put_nowait(outcome)


class Told:
    """A record of acts."""

    def __init__(self) -> None:
        self.acts: list[Act] = []

    def on_act(self, act: Act) -> None:
        self.acts.append(act)


class Running:
    def __init__(self, path, follow: bool) -> None:
        path.write_text(ONE)
        self.file = WatchedFile(path, interval=0.001)
        self.file.read()
        self.fleet, self.outcomes, self.told = Applied(), Outcomes(), Told()
        config = ServerConfig(mcp_config=path)
        self.reloads = Reloads(
            self.file, lambda content: configured(config, content), self.fleet, self.outcomes, self.told, follow
        )
        self.task = asyncio.create_task(self.reloads.run())

    def write(self, text: str) -> None:
        """As programs do that care: another file takes the place."""
        new = self.file.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file.path)

    async def outcome(self) -> str:
        return await asyncio.wait_for(self.outcomes.told.get(), 10)


@pytest.fixture(params=[True])
async def running(tmp_path, request):
    made = Running(tmp_path / "mcp-config.json", request.param)
    yield made
    made.task.cancel()
    await asyncio.gather(made.task, return_exceptions=True)


async def test_another_content_is_applied(running):
    running.write(TWO)
    assert await running.outcome() == "applied"
    assert running.fleet.names == [["one", "two"]]
    assert running.told.acts == [Act("upstream.reload", str(running.file.path), SYSTEM, "")]


@pytest.mark.parametrize("broken", ["{", '{"mcpServers": {"one": {}}}', "[]", '{"mcpServers": {"one": 3}}', "\0"])
async def test_a_broken_file_changes_nothing_and_the_next_one_counts(running, caplog, broken):
    running.write(broken)
    assert await running.outcome() == "invalid"
    assert not running.fleet.names and not running.told.acts and "the upstreams stay as they are" in caplog.text
    running.write(TWO)
    assert await running.outcome() == "applied"


async def test_asked_it_reads_a_file_that_is_the_same(running):
    running.reloads.ask()
    assert await running.outcome() == "applied"  # the fleet's word: it has no earlier one here
    running.reloads.ask()
    assert await running.outcome() == "unchanged"


async def test_asked_for_a_file_that_is_gone_it_says_so(running):
    running.file.path.unlink()
    running.reloads.ask()
    assert await running.outcome() == "invalid"


@pytest.mark.parametrize("running", [False], indirect=True)
async def test_where_it_does_not_follow_only_asking_counts(running):
    running.write(TWO)
    running.reloads.ask()
    assert await running.outcome() == "applied"
    assert running.fleet.names == [["one", "two"]] and running.outcomes.told.empty()


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGHUP")
async def test_a_hang_up_asks_to_reload():
    asked = asyncio.Event()
    with HangUp(asked.set):
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(asked.wait(), 5)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
