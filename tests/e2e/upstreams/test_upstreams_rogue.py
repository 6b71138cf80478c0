"""Upstreams that take more than they should, or break the protocol: others do not notice, and nothing is left."""

import asyncio
import gc
import json
import os
import sys
from pathlib import Path
from statistics import median

import pytest
from narthex_server.errors import DeadlineExceeded, Unavailable
from narthex_server.tools.server import ServerState
from narthex_server.tools.upstream.transports import stdio
from narthex_server.tools.upstream.usage import usage_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits need Linux, and so does reading /proc")

MB = 1 << 20


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def held() -> tuple[list[int], int, int]:
    """What this process has: children, descriptors, tasks."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return children(os.getpid()), len(os.listdir("/proc/self/fd")), len(tasks)


@pytest.fixture(autouse=True)
async def nothing_is_left():
    gc.collect()  # what tests before held
    before = held()
    yield
    assert held() == before


@pytest.fixture
def rogues(gateway, script):
    """`async with rogues(**keys of the entry of one) as running`: `one` misbehaves, `two` does not."""

    def run(changes=None, /, **entry):
        servers = {"one": script("rogue") | entry, "two": script("shaky")}
        return gateway(servers, **{"call_timeout": 20.0, **(changes or {})})

    return run


def text(events) -> str:
    return json.loads(events[-1].content)[0]["text"]


async def others_answer(running, times: int = 30) -> float:
    """The median of the seconds of calls to the other server."""
    loop, took = asyncio.get_running_loop(), []
    for _ in range(times):
        began = loop.time()
        assert text(await running.call("two__echo", b'{"text":"fine"}')) == "fine"
        took.append(loop.time() - began)
        await asyncio.sleep(0.005)
    return median(took)


async def ended(running, tool: str) -> str:
    """Why the call of a tool, beside which others go on, ended."""
    call = asyncio.create_task(running.call(f"one__{tool}"))
    assert await others_answer(running, 10) < 0.1
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.reason == "UPSTREAM_UNAVAILABLE"
    await running.until_ready("one")
    assert text(await running.call("one__echo")) == "here"
    assert running.catalog.roster.vitals()["two"].restarts == 0
    return caught.value.message


async def test_one_that_forks_on_and_on_is_ended_with_all_that_it_started(rogues):
    async with rogues(limits={"processes": 20}) as running:
        (warden,) = running.catalog.roster.vitals()["one"].processes
        assert "processes; its limit is 20" in await ended(running, "fork")
        assert children(warden) == []
        (warden,) = running.catalog.roster.vitals()["one"].processes
        assert usage_of((warden,)).processes == 1


async def test_one_that_eats_memory_is_ended_with_both_numbers(rogues):
    async with rogues(limits={"memory_mb": 100}) as running:
        message = await ended(running, "eat")
    used, limit = (int(word) for word in message.split() if word.isdigit())
    assert "MB of memory; its limit is 100 MB" in message and limit == 100 < used < 500


async def test_memory_is_that_of_all_its_processes_together(rogues):
    async with rogues(limits={"memory_mb": 100}) as running:
        assert "MB of memory; its limit is 100 MB" in await ended(running, "eat_together")


async def test_memory_that_several_share_counts_once(rogues):
    async with rogues(limits={"memory_mb": 200}) as running:
        assert text(await running.call("one__share")) == "shared"
        assert running.status("one").state is ServerState.READY


@pytest.mark.parametrize("tool", ["burn", "burn_deaf"])
async def test_one_that_burns_cpu_time_is_ended(rogues, tool):
    async with rogues(limits={"cpu_secs": 1}) as running:
        assert "s of CPU time; its limit is 1 s" in await ended(running, tool)


async def test_a_file_can_be_as_long_as_the_limit(rogues, tmp_path):
    async with rogues(limits={"file_mb": 2}, cwd=str(tmp_path)) as running:
        assert "wrote to a file beyond 2 MB, its limit" in await ended(running, "write")
    assert (tmp_path / "large").stat().st_size == 2 * MB


async def test_open_files_end_at_the_limit(rogues):
    async with rogues(limits={"open_files": 40}) as running:
        assert text(await running.call("one__files")) == "Too many open files"


@pytest.mark.parametrize("kind", ["notifications", "logs", "requests", "malformed", "garbage", "one_line", "stderr"])
async def test_one_that_floods_us_slows_itself_down_alone(rogues, kind, caplog):
    async with rogues({"call_timeout": 1.0}) as running:
        with pytest.raises((DeadlineExceeded, Unavailable)):
            await running.call(f"one__{kind}")
        assert await others_answer(running) < 0.1
        assert running.catalog.roster.vitals()["two"].restarts == 0
    told = [record for record in caplog.records if record.name.startswith("narthex") and record.levelname != "DEBUG"]
    assert len(told) < 10  # the log is not flooded either


async def test_an_answer_counts_by_its_id_and_once(rogues):
    async with rogues() as running:
        waiting = asyncio.create_task(running.call("two__sleep", b'{"seconds":0.5}'))
        assert text(await running.call("one__repeat")) == "first"
        assert text(await running.call("one__echo")) == "here"
        assert text(await waiting) == ""
        with pytest.raises(DeadlineExceeded):
            await running.call("one__misplace", seconds=0.3)
        assert text(await running.call("one__echo")) == "here"
        assert running.catalog.roster.vitals()["one"].restarts == 0


async def test_one_that_closes_its_output_and_lives_is_ended(rogues, gone):
    async with rogues() as running:
        (warden,) = running.catalog.roster.vitals()["one"].processes
        (pid,) = children(warden)
        assert "closed its output" in await ended(running, "close")
        await gone(pid)


async def test_one_that_does_not_read_holds_up_nobody_and_is_sent_one_line_at_most(rogues):
    large = json.dumps({"text": "x" * 7 * MB}).encode()
    async with rogues({"call_timeout": 1.5}) as running:
        calls = [asyncio.create_task(running.call("one__sleep"))]
        before = resident()
        calls += [asyncio.create_task(running.call("one__echo", large)) for _ in range(20)]
        assert await others_answer(running) < 0.1
        assert resident() - before < 20 * 10 * MB  # the arguments as they came, and not as they are sent
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, DeadlineExceeded) and result.reason == "UPSTREAM_DEADLINE_EXCEEDED"
        assert await others_answer(running, 5) < 0.1


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_an_upstream_that_stops_its_warden_is_gone_all_the_same(rogues, gone):
    async with rogues() as running:
        (warden,) = running.catalog.roster.vitals()["one"].processes
        (pid,) = children(warden)
        os.kill(warden, 19)
    await gone(warden)
    await gone(pid)


async def test_of_our_variables_it_has_those_that_are_allowed(rogues, monkeypatch):
    for name in ("LC_ROGUE", "ROGUE_KEY", "NARTHEX_ROGUE"):
        monkeypatch.setenv(name, "value")
    async with rogues() as running:
        names = json.loads(text(await running.call("one__environment")))
        assert "PATH" in names and "ROGUE_KEY" not in names and "NARTHEX_ROGUE" not in names
    async with rogues(env_allow=["LC_*", "NARTHEX_*"], env={"OWN": "1"}) as running:
        names = json.loads(text(await running.call("one__environment")))
        assert {"LC_ROGUE", "OWN"} <= set(names) and not {"PATH", "ROGUE_KEY", "NARTHEX_ROGUE"} & set(names)


async def test_a_sandbox_that_cannot_be_had_is_said_at_the_start(rogues, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    async with rogues(sandbox="on") as running:
        status = running.status("one")
        assert status.state is ServerState.UNHEALTHY and "install the package bubblewrap" in status.reason
        with pytest.raises(Unavailable, match="install the package bubblewrap"):
            await running.call("one__echo")
        assert await others_answer(running, 3) < 0.1
    async with rogues(sandbox="auto") as running:
        assert text(await running.call("one__echo")) == "here"


@pytest.mark.parametrize("changed", ["_WARDED", "children"])
async def test_limits_that_cannot_be_kept_are_said_at_the_start(rogues, monkeypatch, changed):
    if changed == "_WARDED":  # as on other systems
        monkeypatch.setattr(stdio, "_WARDED", False)
    else:  # as on a Linux that was built without
        monkeypatch.setattr(stdio, "_TELLS_CHILDREN", "/proc/self/absent")
    async with rogues(limits={"memory_mb": 100}) as running:
        status = running.status("one")
        assert status.state is ServerState.UNHEALTHY and "Linux" in status.reason
        with pytest.raises(Unavailable, match="need"):
            await running.call("one__echo")
        assert await others_answer(running, 3) < 0.1


@pytest.fixture
def seen() -> list[str]:
    """What a Python of /tmp needs to see of it: this one, and the servers here."""
    return [sys.prefix, sys.base_prefix, str(Path(__file__).parent)]


@pytest.mark.system
async def test_a_sandbox_has_the_files_it_is_given_and_no_network(rogues, script, tmp_path, seen):
    for name in ("work", "given"):
        (tmp_path / name).mkdir()
    here, there = str(tmp_path / "work"), str(tmp_path / "given")
    entry = script("rogue", there) | {"cwd": here, "limits": {"processes": 8, "memory_mb": 200, "cpu_secs": 1}}
    sandbox = {"writable": [there], "readable": seen}
    async with rogues(**entry, sandbox=sandbox) as running:
        world = json.loads(text(await running.call("one__world")))
        assert world == {"processes": 2, "here": "Read-only file system", "there": "written", "network": ["lo"]}
        assert (tmp_path / "given" / "there").read_text() == "was here" and not os.listdir(here)
        for tool, told in (("fork", "processes; its limit is"), ("eat", "MB of memory"), ("burn", "s of CPU time")):
            assert told in await ended(running, tool)
    sandbox |= {"network": True, "writable": [here]}
    async with rogues(**entry, sandbox=sandbox) as running:
        world = json.loads(text(await running.call("one__world")))
        assert world["here"] == "written" and world["there"] != "written"
        assert len(world["network"]) == len(Path("/proc/net/dev").read_text().splitlines()) - 2


@pytest.mark.system
async def test_what_a_sandbox_is_to_write_to_has_to_be_there(rogues, tmp_path, seen):
    async with rogues(sandbox={"writable": [str(tmp_path / "absent")], "readable": seen}) as running:
        assert "absent" in running.status("one").reason
