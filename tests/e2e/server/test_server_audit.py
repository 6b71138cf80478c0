"""The audit record of a server process: whole after any end of it, and refused calls while it cannot be written."""

import asyncio
import json
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing

import grpc
import pytest
from narthex.v1 import lot_pb2, upstream_pb2
from narthex.v1 import tool_pb2 as wire
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

from tests.e2e.server.conftest import RICH, finish, start

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def serve(tmp_path):
    """Starts servers that record below `tmp_path`."""
    upstreams = tmp_path / "mcp.json"
    upstreams.write_text(
        json.dumps({"mcpServers": {"rich": {"command": sys.executable, "args": [str(RICH), "stdio"]}}})
    )
    begun = []

    def run(*arguments):
        record = ("--mcp-config", str(upstreams), "--audit", "--audit-path", str(tmp_path / "audit"))
        begun.append(start(tmp_path / f"{len(begun)}.log", *record, *arguments))
        return begun[-1]

    yield run
    for server in begun:
        finish(server)


@pytest.fixture
def audit(tmp_path):
    def run(action, *arguments):
        command = [sys.executable, "-m", "narthex.cli.main", "audit", action, str(tmp_path / "audit"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    return run


def exported(audit, *arguments):
    code, text = audit("export", *arguments)
    assert code == 0
    return [json.loads(line) for line in text.splitlines()]


@asynccontextmanager
async def opened(server):
    """A connection to a server whose upstream has come up."""
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        async with asyncio.timeout(60):
            async for _ in ToolServiceStub(channel).WatchTools(wire.WatchToolsRequest()):
                found = await UpstreamServiceStub(channel).ListUpstreams(upstream_pb2.ListUpstreamsRequest())
                if all(one.state == upstream_pb2.UPSTREAM_STATE_READY for one in found.upstreams):
                    break
        yield channel


async def call(channel, name="rich__echo", arguments=b'{"text":"hello"}', **more):
    request = wire.CallToolRequest(name=name, arguments=arguments)
    return [event async for event in ToolServiceStub(channel).CallTool(request, timeout=30, **more)]


async def test_every_call_is_in_the_record_after_an_ordinary_end(serve, audit):
    server = serve("--audit-arguments", "redacted")
    async with opened(server) as channel:
        metadata = (("x-request-id", "one"), ("traceparent", TRACEPARENT))
        await call(channel, arguments=b'{"text":"Bearer abcdefgh12345"}', metadata=metadata)
        for name, arguments in (("rich__echo", b"[]"), ("nothing", b"{}")):
            with pytest.raises(grpc.aio.AioRpcError):
                await call(channel, name, arguments)
        upstreams = UpstreamServiceStub(channel)
        await upstreams.ReconnectUpstream(upstream_pb2.ReconnectUpstreamRequest(name="rich"))
        with pytest.raises(grpc.aio.AioRpcError):
            await upstreams.RemoveUpstream(upstream_pb2.RemoveUpstreamRequest(name="poor"))
        await asyncio.gather(*(call(channel) for _ in range(100)))
    assert server.metric("narthex_audit_lost_total") == 0
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert audit("verify")[0] == 0
    first, second, third, act, failed, *rest = exported(audit)
    assert (first["request"], first["trace"]) == ("one", TRACEPARENT.split("-")[1])
    assert (first["name"], first["server"], first["outcome"]) == ("rich__echo", "rich", "ok")
    assert first["arguments"] == {"text": "[redacted]"}
    assert (second["outcome"], third["outcome"], third["asked"]) == ("invalid", "not_found", "nothing")
    assert (act["kind"], act["verb"], act["subject"]) == ("act", "upstream.reconnect", "rich")
    assert (failed["verb"], failed["subject"], failed["reason"]) == ("upstream.remove", "poor", "UPSTREAM_NOT_FOUND")
    assert len(rest) == 100 and {one["outcome"] for one in rest} == {"ok"}
    assert len(exported(audit, "--outcome", "not_*", "--since", "1h")) == 1
    assert "upstream.reconnect" in audit("show", "--kind", "act")[1]
    log = server.log.read_text()
    assert f"trace={first['trace']}" in log and "abcdefgh12345" not in log


async def test_a_killed_server_loses_its_last_batch_at_most_and_the_record_goes_on(serve, audit):
    answered = 0
    for _ in range(2):
        server = serve("--audit-interval", "0.01")
        async with opened(server) as channel:
            done = asyncio.Event()

            async def calling(channel=channel, done=done):
                nonlocal answered
                try:
                    while True:
                        await call(channel)
                        answered += 1
                        if answered % 200 == 150:
                            done.set()
                except grpc.aio.AioRpcError:
                    return

            callers = [asyncio.create_task(calling()) for _ in range(8)]
            await done.wait()
            written = server.metric("narthex_audit_records_total")
            server.process.kill()
            await asyncio.gather(*callers)
        code, text = audit("verify")
        assert code == 0 and text.startswith("whole: records 1 to ")
        assert len(exported(audit)) >= written
    assert 0.5 * answered < len(exported(audit)) <= answered + 16
    assert int(audit("anchor")[1].partition(":")[0]) == len(exported(audit))


async def test_nothing_runs_while_the_record_cannot_be_written(serve, audit, tmp_path):
    server = serve("--audit-interval", "0")
    async with opened(server) as channel:
        await call(channel)
        (file,) = (tmp_path / "audit").glob("*.audit")
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("begin immediate")  # nobody else can write
            refused = None
            async with asyncio.timeout(30):
                while refused is None:
                    try:
                        await call(channel)
                    except grpc.aio.AioRpcError as error:
                        refused = error
            assert refused.code() is grpc.StatusCode.UNAVAILABLE and "recorded" in refused.details()
            assert server.metric("narthex_audit_failing") == 1
            other.execute("rollback")
        async with asyncio.timeout(30):
            while server.metric("narthex_audit_failing"):
                await asyncio.to_thread(server.metrics)
        await call(channel)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert audit("verify")[0] == 0
    assert "AUDIT_UNAVAILABLE" in {one.get("reason") for one in exported(audit)}


def room(server, size):
    """Makes files of the server end at a size, as on a full disk; None takes that away."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


async def until_failing(server, channel):
    """Calls until the record cannot be written; gives the error of the last call, if it has one."""
    async with asyncio.timeout(30):
        while not server.metric("narthex_audit_failing"):
            try:
                await call(channel)
            except grpc.aio.AioRpcError as error:
                return error


async def until_mended(server):
    async with asyncio.timeout(30):
        while server.metric("narthex_audit_failing"):
            await asyncio.to_thread(server.metrics)


async def test_a_full_disk_refuses_calls_until_there_is_room(serve, audit):
    server = serve("--audit-interval", "0")
    async with opened(server) as channel:
        await call(channel)
        room(server, 96 * 1024)
        await until_failing(server, channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.metric("narthex_audit_refused_total") >= 1
        room(server, None)
        await until_mended(server)
        await call(channel)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    log = server.log.read_text()
    assert "the audit record cannot be written" in log and "can be written again" in log
    assert audit("verify")[0] == 0


async def test_a_full_disk_stops_nothing_where_that_is_wanted_and_what_is_lost_is_counted(serve, audit):
    server = serve("--audit-interval", "0", "--audit-on-failure", "continue", "--audit-max-pending", "2")
    async with opened(server) as channel:
        room(server, 96 * 1024)
        assert await until_failing(server, channel) is None
        for _ in range(5):
            await call(channel)
        lost = server.metric("narthex_audit_lost_total")
        assert lost >= 3
        room(server, None)
        await until_mended(server)
        await call(channel)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert audit("verify")[0] == 0
    assert sum(one["lost"] for one in exported(audit, "--kind", "gap")) == lost


def test_a_server_whose_record_cannot_be_written_does_not_start(tmp_path):
    (tmp_path / "mcp.json").write_text('{"mcpServers": {}}')
    (tmp_path / "file").touch()
    free = ["--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mcp-config", str(tmp_path / "mcp.json")]
    command = [
        sys.executable,
        "-m",
        "narthex_server.main",
        *free,
        "--audit",
        "--audit-path",
        str(tmp_path / "file/audit"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "audit.path" in done.stderr and "cannot be made" in done.stderr


async def test_a_changed_record_is_found_with_the_number_of_the_record(serve, audit, tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef" * 4)
    server = serve("--audit-key-file", str(key))
    async with opened(server) as channel:
        for _ in range(5):
            await call(channel)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)
    assert audit("verify", "--key-file", str(key))[0] == 0
    assert audit("verify")[0] == 1
    (file,) = (tmp_path / "audit").glob("*.audit")
    with closing(sqlite3.connect(file)) as database:
        database.execute("update records set body = replace(cast(body as text), 'ok', 'denied') where seq = 3")
        database.commit()
    code, text = audit("verify", "--key-file", str(key))
    assert code == 1 and text.startswith("not whole: record 3: changed")


def test_a_second_server_does_not_write_into_the_same_folder(serve, tmp_path):
    serve()
    command = ["--mcp-config", str(tmp_path / "mcp.json"), "--audit", "--audit-path", str(tmp_path / "audit")]
    free = ["--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    other = subprocess.run(
        [sys.executable, "-m", "narthex_server.main", *free, *command], capture_output=True, text=True, timeout=60
    )
    assert other.returncode == 2 and "another process" in other.stderr


async def test_what_becomes_of_tickets_is_in_the_record(serve, audit):
    server = serve()
    async with opened(server) as channel:
        lot = LotServiceStub(channel)
        call = wire.ToolInvocation(name="rich__echo", arguments=b'{"text":"hello"}')
        request = lot_pb2.SubmitRequest(work=lot_pb2.Work(call_tool=call))
        await lot.Submit(request, metadata=(("x-request-id", "mine"),))
        async for _ in lot.Watch(lot_pb2.WatchRequest(ticket_ids=["mine"]), timeout=30):
            pass
        await lot.Cancel(lot_pb2.CancelRequest(ticket_id="mine"))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    acts = [(one["verb"], one["outcome"]) for one in exported(audit) if one.get("subject") == "mine"]
    assert acts == [("ticket.submit", "ok"), ("ticket.start", "ok"), ("ticket.finish", "ok"), ("ticket.discard", "ok")]
    (made,) = [one for one in exported(audit) if one.get("name") == "rich__echo"]
    assert made["request"] == "mine" and made["outcome"] == "ok"
