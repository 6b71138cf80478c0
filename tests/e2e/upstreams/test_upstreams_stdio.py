"""Forwarding to real servers over standard input and output."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from narthex_server.errors import DeadlineExceeded, InvalidToolArguments, NotFound, Unavailable
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, Log, Progress, ToolResult
from narthex_server.tools.upstream.forms import parse_sources
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.source import Process
from narthex_server.tools.upstream.supervisor import Upstream
from narthex_server.tools.upstream.transports.link import Link
from narthex_server.tools.upstream.transports.stdio import connect


def text(events) -> str:
    return json.loads(events[-1].content)[0]["text"]


async def test_time_git_and_workspace_are_listed_in_order_and_answer(gateway, tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)  # noqa: ASYNC221
    (tmp_path / "notes.txt").write_text("hello")
    async with gateway(
        {
            "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
            "git": {"command": sys.executable, "args": ["-m", "mcp_server_git"]},
            "workspace": {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(tmp_path)]},
        }
    ) as running:
        names = running.names()
        assert names[:3] == ["time__get_current_time", "time__convert_time", "git__git_status"]
        files = [name for name in names if name.startswith("workspace__")]
        assert files[:3] == ["workspace__list_directory", "workspace__read_file", "workspace__search_files"]
        assert names[-1] == files[-1]
        assert [s.state for s in running.catalog.servers()] == [ServerState.READY] * 3
        now = await running.call("time__get_current_time", b'{"timezone":"UTC"}')
        assert json.loads(now[-1].structured_content)["timezone"] == "UTC"
        repo = json.dumps({"repo_path": str(tmp_path)}).encode()
        assert "notes.txt" in text(await running.call("git::git_status", repo))
        assert text(await running.call("workspace.read_file", b'{"path":"/notes.txt"}')) == "hello"


async def test_progress_and_logs_come_before_the_result(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}) as running:
        events = await running.call("rich__steps", b'{"count":3}')
        assert [e for e in events if isinstance(e, Progress)] == [
            Progress(n, 3.0, f"step {n:.0f}") for n in (1.0, 2.0, 3.0)
        ]
        assert [json.loads(e.data) for e in events if isinstance(e, Log)] == ["did 1", "did 2", "did 3"]
        assert isinstance(events[-1], ToolResult)


async def test_a_tools_own_failure_is_a_result(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}) as running:
        (result,) = await running.call("rich__fail")
        assert result.is_error and "no luck" in text([result])


async def test_arguments_are_checked_before_the_call(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}) as running:
        with pytest.raises(InvalidToolArguments) as caught:
            await running.call("rich__echo", b'{"text":1}')
        assert [(v.field, v.description) for v in caught.value.violations] == [("text", "must be string, not integer")]
        with pytest.raises(NotFound):
            await running.call("rich__nothing")


async def test_a_call_that_hangs_is_cancelled_upstream_at_its_deadline(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}) as running:
        with pytest.raises(DeadlineExceeded, match="rich"):
            await running.call("rich__hang", seconds=0.3)
        assert text(await running.call("rich__times_cancelled")) == "1"


async def test_a_call_whose_reader_goes_is_cancelled_upstream(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}) as running:
        events = running.catalog.call("rich__hang", b"{}", CallContext(LOCAL, "test"))
        assert await anext(events) == Progress(1, None, "hanging")
        await events.aclose()
        assert text(await running.call("rich__times_cancelled")) == "1"


async def test_a_server_that_dies_in_a_call_is_unavailable_with_the_reason_and_comes_back(gateway, script):
    async with gateway({"rich": script("rich", "stdio"), "other": script("rich", "stdio")}) as running:
        with pytest.raises(Unavailable, match="exited with status 7"):
            await running.call("rich__die")
        assert running.status("rich").state is ServerState.UNHEALTHY
        assert not [name for name in running.names() if name.startswith("rich__")]
        with pytest.raises(Unavailable, match="exited with status 7"):
            await running.call("rich__echo", b'{"text":"x"}')
        assert text(await running.call("other__echo", b'{"text":"fine"}')) == "fine"
        await running.until_ready("rich")
        assert text(await running.call("rich__echo", b'{"text":"again"}')) == "again"


async def test_new_tools_appear_when_the_server_says_so(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}) as running:
        await running.call("rich__grow", b'{"name":"fresh"}')
        await running.until(lambda: "rich__fresh" in running.names())
        assert text(await running.call("rich__fresh")) == "new"


async def test_text_on_stdout_that_is_no_message_is_skipped(gateway, script):
    async with gateway({"plain": script("plain")}) as running:
        status = running.status("plain")
        assert (status.state, status.protocol_version, status.tools) == (ServerState.READY, "2025-06-18", 2)
        assert running.names() == ["plain__same", "plain__second_tool_"]
        (result,) = await running.call("plain__same", b'{"z":1}')
        assert result.structured_content == b'{"z":1}'


async def test_schemas_keep_the_order_of_keys_and_numbers_their_digits(gateway, script):
    async with gateway({"plain": script("plain")}) as running:
        schema = running.catalog.list(LOCAL)[0].input_schema
        assert list(json.loads(schema)) == ["type", "required", "properties"]
        assert list(json.loads(schema)["properties"]) == ["z", "a"]
        (result,) = await running.call("plain__same", b'{"z":123456789012345678901234567889,"a":"\\u00fc"}')
        assert json.loads(result.structured_content) == {"z": 123456789012345678901234567889, "a": "ü"}


async def test_an_answer_that_is_no_result_fails_that_call_alone(gateway, script):
    async with gateway({"plain": script("plain")}) as running:
        with pytest.raises(Unavailable, match="not a result"):
            await running.call("plain__same", b'{"z":1,"a":"nonsense"}')
        await running.call("plain__same", b'{"z":1}')


async def test_servers_that_cannot_start_say_why_and_stop_nobody(gateway, script, tmp_path):
    entries = {
        "missing": {"command": "no-such-command-anywhere"},
        "broken": {"command": sys.executable, "args": ["-c", "import nowhere_to_be_found"]},
        "nowhere": {"command": sys.executable, "cwd": str(tmp_path / "absent")},
        "silent": script("stubborn", str(tmp_path / "pids")),
        "socket": {"url": "ws://localhost:1", "type": "ws"},
        "good": script("rich", "stdio"),
    }
    async with gateway(entries, start_timeout=5.0) as running:
        await running.until_ready("good")
        reasons = {s.name: s.reason for s in running.catalog.servers()}
        assert "command not found: no-such-command-anywhere" in reasons["missing"]
        assert "nowhere_to_be_found" in reasons["broken"]
        assert "working directory not found" in reasons["nowhere"]
        assert "did not answer within 5 s" in reasons["silent"]
        assert "Connect call failed" in reasons["socket"]
        with pytest.raises(Unavailable, match="command not found"):
            await running.call("missing__anything")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that leaves the group is not found")
async def test_a_stubborn_server_and_all_it_started_are_gone_after_stop(gateway, script, tmp_path, gone):
    pids = tmp_path / "pids"
    async with gateway({"silent": script("stubborn", str(pids))}, start_timeout=3.0):
        pass
    for pid in pids.read_text().split():
        await gone(int(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that leaves the group is not found")
async def test_so_are_they_when_it_is_cancelled_while_it_stops(script, tmp_path, gone):
    pids = tmp_path / "pids"
    entry = script("stubborn", str(pids))

    async def run() -> None:
        async with connect(
            Process(entry["command"], tuple(entry["args"])), 1 << 20, Link("silent", Secrets(), print, print)
        ):
            await _written(pids)
            leaving.set()

    leaving = asyncio.Event()
    running = asyncio.create_task(run())
    await leaving.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for pid in await _written(pids):
        await gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_they_die_with_a_parent_that_is_killed(script, tmp_path, gone):
    program, pids = tmp_path / "parent.py", tmp_path / "pids"
    program.write_text(
        "import asyncio, sys\n"
        "from narthex_server.tools.upstream.secrets import Secrets\n"
        "from narthex_server.tools.upstream.source import Process\n"
        "from narthex_server.tools.upstream.transports.link import Link\n"
        "from narthex_server.tools.upstream.transports.stdio import connect\n"
        "async def main():\n"
        "    link = Link('x', Secrets(), print, print)\n"
        "    async with connect(Process(sys.argv[1], tuple(sys.argv[2:])), 1 << 20, link):\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    entry = script("stubborn", str(pids))
    parent = await asyncio.create_subprocess_exec(sys.executable, program, entry["command"], *entry["args"])
    try:
        started = await _written(pids)
    finally:
        parent.kill()
        await parent.wait()
    for pid in started:
        await gone(pid)


async def _written(pids: Path) -> list[int]:
    async with asyncio.timeout(20):
        while not (pids.exists() and pids.read_text().endswith("\n")):  # noqa: ASYNC110 (not our child)
            await asyncio.sleep(0.01)
    return [int(pid) for pid in pids.read_text().split()]


async def test_stopping_does_not_wait_for_a_server_that_hangs_at_start(script, tmp_path):
    source = parse_sources({"mcpServers": {"silent": script("stubborn", str(tmp_path / "pids"))}})[0]
    catalog = Catalog(servers=[Upstream(source)])
    await catalog.start(patience=0.5)
    assert catalog.servers()[0].state is ServerState.STARTING
    async with asyncio.timeout(5):
        await catalog.stop()


async def test_no_more_calls_run_at_once_than_allowed(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}, concurrency=1) as running:
        events = running.catalog.call("rich__hang", b"{}", CallContext(LOCAL, "test"))
        await anext(events)
        with pytest.raises(DeadlineExceeded):
            await running.call("rich__echo", b'{"text":"waits"}', seconds=0.2)
        await events.aclose()
        assert text(await running.call("rich__echo", b'{"text":"runs"}')) == "runs"


async def test_reconnecting_gives_a_new_process(gateway, script):
    async with gateway({"rich": script("rich", "stdio")}) as running:
        await running.call("rich__grow", b'{"name":"fresh"}')
        await running.until(lambda: "rich__fresh" in running.names())
        assert (await running.catalog.reconnect("rich")).state is ServerState.READY
        assert text(await running.call("rich__echo", b'{"text":"new"}')) == "new"
        assert "rich__fresh" not in running.names()
