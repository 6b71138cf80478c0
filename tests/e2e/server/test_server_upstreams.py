"""Upstreams that are added, removed and reloaded while a server runs, and their calls meanwhile."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from narthex.keys import append_key, new_key
from narthex.v1 import tool_pb2 as tools
from narthex.v1 import upstream_pb2 as wire
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

SHAKY = str(Path(__file__).parents[1] / "upstreams" / "servers" / "shaky.py")
RELOADS = "narthex_upstream_config_reload_total"
LIST = wire.ListUpstreamsRequest()
TOKEN = "tok-0123456789"


def shaky(*arguments: str) -> dict:
    return {"command": sys.executable, "args": [SHAKY, *arguments]}


def spec(name: str, *arguments: str, **fields) -> wire.UpstreamSpec:
    process = wire.ProcessSource(command=sys.executable, arguments=[SHAKY, *arguments], environment={"TOKEN": TOKEN})
    return wire.UpstreamSpec(name=name, process=process, **fields)


class File:
    """The configuration file of a running server."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, servers: dict | str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(servers if isinstance(servers, str) else json.dumps({"mcpServers": servers}))
        new.replace(self.path)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> File:
    made = File(tmp_path_factory.mktemp("reload") / "mcp-config.json")
    made.write({"one": shaky(), "two": shaky()})
    return made


@pytest.fixture(scope="module")
def server(launch, file):
    return launch("--mcp-config", str(file.path), "--upstream-drain", "0.5")


@pytest.fixture
def upstreams(channel, settled):
    return UpstreamServiceStub(channel)


@pytest.fixture
def stub(channel, settled):
    return ToolServiceStub(channel)


@pytest.fixture
def call(stub):
    async def text(name: str, **arguments) -> str:
        request = tools.CallToolRequest(name=name, arguments=json.dumps(arguments).encode())
        events = [event async for event in stub.CallTool(request, timeout=30)]
        return json.loads(events[-1].result.content)[0]["text"]

    return text


async def names(upstreams) -> list[str]:
    return [one.name for one in (await upstreams.ListUpstreams(LIST)).upstreams]


async def until(stub, condition) -> None:
    """Looks at each change of the lists."""
    async with asyncio.timeout(20):
        async for _ in stub.WatchTools(tools.WatchToolsRequest()):
            if await condition():
                return


async def reloads(server, outcome: str, more_than: float) -> None:
    async with asyncio.timeout(20):
        while (await asyncio.to_thread(server.metric, RELOADS, outcome=outcome)) <= more_than:
            pass


async def test_one_is_added_used_and_removed(upstreams, stub, call, failure, server):
    added = (await upstreams.AddUpstream(wire.AddUpstreamRequest(spec=spec("extra", "--key", TOKEN)))).upstream
    assert (added.name, added.state, added.tools) == ("extra", wire.UPSTREAM_STATE_READY, 9)
    assert (added.server_name, added.server_version, added.protocol_version) == ("shaky", "1.2", "2025-06-18")
    assert added.breaker == wire.BREAKER_STATE_CLOSED and added.state_time.seconds > 0
    assert not added.HasField("next_attempt_time") and not added.HasField("last_success_time")
    assert await call("extra__echo", text="here") == "here"
    (listed,) = [one for one in (await upstreams.ListUpstreams(LIST)).upstreams if one.name == "extra"]
    assert listed.HasField("last_success_time") and TOKEN not in str(listed)
    caught = await failure(upstreams.AddUpstream(wire.AddUpstreamRequest(spec=spec("extra"))))
    assert (caught.code, caught.reason) == (grpc.StatusCode.ALREADY_EXISTS, "UPSTREAM_EXISTS")
    await upstreams.RemoveUpstream(wire.RemoveUpstreamRequest(name="extra"))
    assert "extra" not in await names(upstreams)
    caught = await failure(stub.CallTool(tools.CallToolRequest(name="extra__echo")))
    assert caught.code is grpc.StatusCode.NOT_FOUND
    assert TOKEN not in server.log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="limits need Linux")
async def test_one_is_added_with_limits_and_is_seen_to_use_what_it_may(upstreams, call, server):
    limited = spec("limited")
    limited.process.limits.CopyFrom(wire.ProcessLimits(memory_mb=200, processes=4, open_files=64))
    added = (await upstreams.AddUpstream(wire.AddUpstreamRequest(spec=limited))).upstream
    assert added.state == wire.UPSTREAM_STATE_READY and await call("limited__echo", text="here") == "here"
    limits = Path(f"/proc/{int(await call('limited__pid'))}/limits").read_text()
    assert [line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files")] == [["64", "64"]]
    used = {
        name: await asyncio.to_thread(server.metric, f"narthex_upstream_process_{name}", server="limited")
        for name in ("children", "memory_bytes", "open_fds", "cpu_seconds")
    }
    assert used["children"] == 1 and 1 << 20 < used["memory_bytes"] < 200 << 20
    assert 3 <= used["open_fds"] <= 64 and used["cpu_seconds"] > 0
    await upstreams.RemoveUpstream(wire.RemoveUpstreamRequest(name="limited"))


async def test_one_that_cannot_be_started_is_added_and_says_why_without_its_token(upstreams, server):
    broken = wire.ProcessSource(
        command=sys.executable, arguments=["-c", f"import sys; sys.exit('bad token {TOKEN}')"], environment={"A": TOKEN}
    )
    request = wire.AddUpstreamRequest(spec=wire.UpstreamSpec(name="broken", process=broken))
    added = (await upstreams.AddUpstream(request)).upstream
    assert added.state == wire.UPSTREAM_STATE_UNHEALTHY and "bad token ***" in added.failure
    assert added.failures >= 1 and added.next_attempt_time.seconds > 0
    assert TOKEN not in str(added) and TOKEN not in server.log.read_text() and TOKEN not in str(server.metrics())
    await upstreams.RemoveUpstream(wire.RemoveUpstreamRequest(name="broken"))


async def test_a_spec_that_is_wrong_names_its_fields(upstreams, failure):
    caught = await failure(upstreams.AddUpstream(wire.AddUpstreamRequest(spec=wire.UpstreamSpec(name="a b"))))
    assert caught.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.fields == ["spec.name", "spec.source"]


async def test_removing_waits_for_running_calls_but_not_for_ever(upstreams, stub, call, failure):
    await upstreams.AddUpstream(wire.AddUpstreamRequest(spec=spec("extra")))
    short = asyncio.create_task(call("extra__sleep", seconds=0.2))
    slow = stub.CallTool(tools.CallToolRequest(name="extra__sleep", arguments=b'{"seconds":60}'))
    ended = asyncio.create_task(failure(slow))
    assert await call("extra__echo", text="after them") == "after them"
    await upstreams.RemoveUpstream(wire.RemoveUpstreamRequest(name="extra"))
    assert await short == ""
    assert (await ended).code is grpc.StatusCode.UNAVAILABLE


async def test_another_file_changes_what_differs_and_no_call_of_the_rest_is_lost(upstreams, stub, call, file, server):
    one, two = await call("one__pid"), await call("two__pid")
    await upstreams.AddUpstream(wire.AddUpstreamRequest(spec=spec("extra")))
    running = asyncio.create_task(call("one__sleep", seconds=3))
    replaced = asyncio.create_task(call("two__sleep", seconds=0.2))
    assert await call("two__echo", text="after them") == "after them"
    before = server.metric(RELOADS, outcome="applied")
    file.write({"three": shaky(), "one": shaky(), "two": shaky("other")})
    applied = asyncio.create_task(reloads(server, "applied", before))
    calls = 0
    while not applied.done():
        assert await call("one__echo", text="still") == "still"
        assert await call("two__echo", text="still") == "still", "the new one is there before the old one goes"
        calls += 2
    assert calls > 10
    assert await names(upstreams) == ["three", "one", "two", "extra"]
    assert await call("one__pid") == one and await call("two__pid") != two
    assert await replaced == "" and await running == ""
    assert await call("three__echo", text="new") == "new"
    file.write({"one": shaky(), "two": shaky("other")})
    await until(stub, lambda: _is(names(upstreams), ["one", "two", "extra"]))
    assert await call("one__pid") == one
    await upstreams.RemoveUpstream(wire.RemoveUpstreamRequest(name="extra"))


async def _is(found, expected) -> bool:
    return await found == expected


async def test_a_broken_file_changes_nothing_and_a_signal_reads_it_again(upstreams, call, file, server):
    one, before = await call("one__pid"), await names(upstreams)
    good = file.path.read_text()
    moment = server.metric("narthex_upstream_config_last_success_timestamp_seconds")
    invalid = server.metric(RELOADS, outcome="invalid")
    file.write('{"mcpServers": {"one": {"comand": "x"}}}')
    await reloads(server, "invalid", invalid)
    assert "mcpServers.one.command: is missing" in server.log.read_text()
    assert await names(upstreams) == before and await call("one__pid") == one
    assert server.metric("narthex_upstream_config_last_success_timestamp_seconds") == moment
    server.process.send_signal(signal.SIGHUP)
    await reloads(server, "invalid", invalid + 1)
    unchanged = server.metric(RELOADS, outcome="unchanged")
    file.write(good)
    await reloads(server, "unchanged", unchanged)
    assert server.metric("narthex_upstream_config_last_success_timestamp_seconds") > moment
    assert await call("one__pid") == one


async def test_servers_that_always_change_are_told_of_together_now_and_then(upstreams, stub, call):
    both = ("flip", "flop")
    for name in both:
        await _add(upstreams, spec(name, "flipping"))
    clock, moments = asyncio.get_running_loop().time, []
    async with asyncio.timeout(20):
        async for _ in stub.WatchTools(tools.WatchToolsRequest()):
            moments.append(clock())
            assert await call("one__echo", text="beside") == "beside"
            if len(moments) == 5:
                break
    assert moments[-1] - moments[1] > 0.4 * len(moments[2:]), "the first message is the state at the beginning"
    for name in both:
        await upstreams.RemoveUpstream(wire.RemoveUpstreamRequest(name=name))


async def _add(upstreams, what: wire.UpstreamSpec) -> None:
    await upstreams.AddUpstream(wire.AddUpstreamRequest(spec=what))


async def test_lives_show_in_the_metrics(upstreams, stub, call, failure, server):
    before = server.metric("narthex_upstream_restarts_total", server="one")
    await failure(stub.CallTool(tools.CallToolRequest(name="one__die")))
    await until(stub, lambda: _ready(upstreams, "one"))
    assert await call("one__echo", text="back") == "back"
    assert server.metric("narthex_upstream_restarts_total", server="one") == before + 1
    assert server.metric("narthex_upstream_reconnects_total", server="one") >= 1
    assert server.metric("narthex_upstream_breaker_state", server="one", state="closed") == 1
    assert server.metric("narthex_upstream_breaker_state", server="one", state="open") == 0
    assert server.metric("narthex_upstream_breaker_trips_total", server="one") == 0
    assert server.metric("narthex_upstream_health_check_failures_total", server="one") == 0
    assert 0 <= server.metric("narthex_upstream_last_success_age_seconds", server="one") < 20


async def _ready(upstreams, name: str) -> bool:
    found = (await upstreams.ListUpstreams(LIST)).upstreams
    return any(one.name == name and one.state == wire.UPSTREAM_STATE_READY for one in found)


async def test_an_open_breaker_is_told_with_the_time_to_come_back(upstreams, stub, call, failure):
    breaker = wire.BreakerSpec(failures=2)
    await _add(upstreams, spec("weak", breaker=breaker))
    for _ in range(2):
        await call("weak__internal")
    caught = await failure(stub.CallTool(tools.CallToolRequest(name="weak__echo", arguments=b'{"text":"x"}')))
    assert (caught.code, caught.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_BREAKER_OPEN")
    assert 5000 < int(caught.metadata["retry_after_ms"]) <= 10000
    (weak,) = [one for one in (await upstreams.ListUpstreams(LIST)).upstreams if one.name == "weak"]
    assert weak.breaker == wire.BREAKER_STATE_OPEN and weak.breaker_retry_time.seconds > 0
    assert weak.state == wire.UPSTREAM_STATE_READY
    await upstreams.RemoveUpstream(wire.RemoveUpstreamRequest(name="weak"))


async def test_the_command_line_does_all_of_it(server, file, upstreams):
    def narthex(action: str, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "narthex.cli.main", "upstreams", action, "--server", server.grpc, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    added = await asyncio.to_thread(
        narthex, "add", "cli", "--env", f"TOKEN={TOKEN}", "--no-breaker", "--", sys.executable, SHAKY, "--x"
    )
    assert added.returncode == 0, added.stderr
    assert added.stdout == "cli\tready\tstdio\t9 tools\tshaky 1.2\tMCP 2025-06-18\n"
    listed = await asyncio.to_thread(narthex, "list", "--json")
    found = {one["name"]: one for one in json.loads(listed.stdout)}
    assert found["cli"]["state"] == "UPSTREAM_STATE_READY" and TOKEN not in listed.stdout
    again = await asyncio.to_thread(narthex, "reconnect", "cli")
    assert again.stdout.startswith("cli\tready")
    removed = await asyncio.to_thread(narthex, "remove", "cli")
    assert removed.returncode == 0 and "cli" not in await names(upstreams)
    unknown = await asyncio.to_thread(narthex, "remove", "cli")
    assert unknown.returncode == 1 and "UPSTREAM_NOT_FOUND" in unknown.stderr


async def test_with_keys_only_an_admin_may(launch, tmp_path, failure, nothing):
    plain, key = new_key("plain")
    chief, admin_key = new_key("chief", admin=True)
    for one in (key, admin_key):
        append_key(tmp_path / "keys.toml", one)
    served = launch("--mcp-config", str(nothing), "--api-key-file", str(tmp_path / "keys.toml"))
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        stub = UpstreamServiceStub(channel)

        def with_key(secret: str) -> dict:
            return {"metadata": (("authorization", f"Bearer {secret}"),), "timeout": 30}

        for refused in (
            stub.AddUpstream(wire.AddUpstreamRequest(spec=spec("extra")), **with_key(plain)),
            stub.RemoveUpstream(wire.RemoveUpstreamRequest(name="none"), **with_key(plain)),
        ):
            caught = await failure(refused)
            assert caught.code is grpc.StatusCode.PERMISSION_DENIED and "--admin" in caught.text
        assert not (await stub.ListUpstreams(LIST, **with_key(plain))).upstreams
        shared = spec("extra")
        shared.scope = wire.UPSTREAM_SCOPE_SHARED
        added = await stub.AddUpstream(wire.AddUpstreamRequest(spec=shared), **with_key(chief))
        assert added.upstream.state == wire.UPSTREAM_STATE_READY
        again = wire.ReconnectUpstreamRequest(name="extra")
        assert (
            await failure(stub.ReconnectUpstream(again, **with_key(plain)))
        ).code is grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.ReconnectUpstream(again, **with_key(chief))).upstream.state == wire.UPSTREAM_STATE_READY


async def test_a_tenant_reconnects_what_it_has_for_itself(launch, tmp_path, nothing):
    plain, key = new_key("plain", tenant="a")
    chief, admin_key = new_key("chief", admin=True)
    for one in (key, admin_key):
        append_key(tmp_path / "keys.toml", one)
    served = launch("--mcp-config", str(nothing), "--api-key-file", str(tmp_path / "keys.toml"))
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        stub = UpstreamServiceStub(channel)
        for scope in (wire.UPSTREAM_SCOPE_UNSPECIFIED, wire.UPSTREAM_SCOPE_SESSION):
            asked = spec(f"extra{scope}")
            asked.scope = scope
            await stub.AddUpstream(
                wire.AddUpstreamRequest(spec=asked), metadata=(("authorization", f"Bearer {chief}"),), timeout=30
            )
            again = await stub.ReconnectUpstream(
                wire.ReconnectUpstreamRequest(name=asked.name),
                metadata=(("authorization", f"Bearer {plain}"),),
                timeout=30,
            )
            assert again.upstream.state == wire.UPSTREAM_STATE_READY


@pytest.fixture
def littering(launch, tmp_path):
    """A server with an upstream that starts others, and the file of their pids."""
    file, pids = File(tmp_path / "mcp-config.json"), tmp_path / "pids"
    file.write({"one": shaky("littering", str(pids))})
    return launch("--mcp-config", str(file.path)), pids


async def gone(pids: Path) -> None:
    async with asyncio.timeout(10):
        while [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that leaves the group is not found")
async def test_sigterm_lets_forwarded_calls_finish_and_leaves_no_process(littering):
    served, pids = littering
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        stub, upstreams = ToolServiceStub(channel), UpstreamServiceStub(channel)
        await _add(upstreams, spec("extra", "littering", str(pids)))
        assert len(pids.read_text().split()) == 6
        running = [
            stub.CallTool(tools.CallToolRequest(name=f"{name}__sleep", arguments=b'{"seconds":1}'))
            for name in ("one", "extra")
        ]
        for name in ("one", "extra"):
            echo = stub.CallTool(tools.CallToolRequest(name=f"{name}__echo", arguments=b'{"text":"after"}'))
            assert [event async for event in echo]
        served.process.send_signal(signal.SIGTERM)
        for call in running:
            assert [event async for event in call][-1].HasField("result")
    assert await asyncio.to_thread(served.process.wait, 20) == 0
    await gone(pids)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_neither_does_sigkill(littering):
    served, pids = littering
    assert len(pids.read_text().split()) == 3
    served.process.kill()
    await asyncio.to_thread(served.process.wait, 20)
    await gone(pids)
