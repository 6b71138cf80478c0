"""One trace from a client over bridge and server to an upstream, with a collector of OTLP and without one."""

import asyncio
import contextlib
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules

import grpc
import httpx
import pytest
from narthex.v1 import tool_pb2 as wire
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating import attributes as attributes_of

from tests.e2e.processes import READY_S, started

TRACED = Path(__file__).parent / "upstreams" / "servers" / "traced.py"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01"
DROPPED = f"00-{TRACE_ID}-{PARENT_ID}-00"


class Collector(otlp_grpc.TraceServiceServicer):
    """Takes spans as a collector does."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self._came = asyncio.Condition()

    async def Export(self, request, context):
        for group in request.resource_spans:
            service = next(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in group.scope_spans for span in scope.spans]
        async with self._came:
            self._came.notify_all()
        return otlp.ExportTraceServiceResponse()

    async def until(self, count: int) -> list[tuple[str, Span]]:
        async with asyncio.timeout(30), self._came:
            await self._came.wait_for(lambda: len(self.spans) >= count)
        return self.spans


@dataclass
class Stack:
    http: str
    grpc: str
    log: Path

    async def ask(self, method: str, params: dict, **headers: str) -> dict:
        version = {"mcp-protocol-version": "2025-06-18", "accept": "application/json, text/event-stream"}
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        async with httpx.AsyncClient(base_url=f"http://{self.http}", timeout=READY_S, headers=version) as client:
            start = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
            opened = await client.post("/mcp", json=body | {"method": "initialize", "params": start})
            session = {"mcp-session-id": opened.headers["mcp-session-id"]}
            return (await client.post("/mcp", json=body, headers=session | headers)).json()["result"]

    async def seen(self, name="traced__trace", meta=None, **headers: str) -> dict:
        """What the upstream was told as `_meta`."""
        result = await self.ask("tools/call", {"name": name, "arguments": {}, "_meta": meta or {}}, **headers)
        said = json.loads(result["content"][0]["text"])
        said.pop("progressToken", None)  # between server and upstream
        return said


@contextlib.asynccontextmanager
async def stack(tmp_path, *server: str, **environ: str):
    config, log = tmp_path / "mcp.json", tmp_path / "server.log"
    config.write_text(json.dumps({"mcpServers": {"traced": {"command": sys.executable, "args": [str(TRACED)]}}}))
    free = ("--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mcp-config", config)
    async with started("narthex_server.main", *free, *server, log=log, **environ) as ready:
        bridge = ("--http", "127.0.0.1:0", "--server", ready["grpc"])
        async with started("narthex_bridge.main", *bridge, log=tmp_path / "bridge.log", **environ) as front:
            yield Stack(front["http"], ready["grpc"], log)


@pytest.fixture
async def collector():
    made, server = Collector(), grpc.aio.server()
    otlp_grpc.add_TraceServiceServicer_to_server(made, server)
    made.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield made
    await server.stop(None)


@pytest.fixture
def exporting(collector):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}


def attributes(span: Span) -> dict:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def within(spans, trace_id: str) -> dict[str, Span]:
    return {f"{service} {span.name}": span for service, span in spans if span.trace_id.hex() == trace_id}


async def test_one_trace_spans_client_bridge_server_and_upstream(tmp_path, collector, exporting):
    async with stack(tmp_path, **exporting) as running:
        seen = await running.seen(meta={"traceparent": SAMPLED, "tracestate": "vendor=1", "mine": 2})
    spans = within(collector.spans, TRACE_ID)
    assert spans.keys() == {
        "narthex-bridge tools/call traced__trace",
        "narthex-server narthex.v1.ToolService/CallTool",
        "narthex-server execute_tool traced__trace",
    }
    request, rpc, tool = (
        next(span for name, span in spans.items() if part in name) for part in ("bridge", "CallTool", "execute_tool")
    )
    assert request.parent_span_id.hex() == PARENT_ID
    assert rpc.parent_span_id == request.span_id and tool.parent_span_id == rpc.span_id
    assert seen == {"traceparent": f"00-{TRACE_ID}-{tool.span_id.hex()}-01", "tracestate": "vendor=1", "mine": 2}
    told = attributes(request)
    assert (told["mcp.method.name"], told["gen_ai.tool.name"], told["jsonrpc.request.id"]) == (
        "tools/call", "traced__trace", "7",
    )  # fmt: skip
    assert told["mcp.protocol.version"] == "2025-06-18" and told["mcp.session.id"]
    assert attributes(rpc)["rpc.response.status_code"] == "OK"
    assert attributes(tool)["gen_ai.operation.name"] == "execute_tool"
    assert "gen_ai.tool.call.arguments" not in attributes(tool), "arguments are nobody's business"
    assert tool.kind == Span.SPAN_KIND_CLIENT and request.kind == Span.SPAN_KIND_SERVER
    assert f"trace={TRACE_ID}" in running.log.read_text()


async def test_the_trace_of_the_http_request_counts_where_the_message_names_none(tmp_path, collector, exporting):
    async with stack(tmp_path, **exporting) as running:
        seen = await running.seen(traceparent=f"00-{HEADER_TRACE}-{PARENT_ID}-01")
        read = await running.ask("resources/read", {"uri": "trace:me"}, traceparent=f"00-{HEADER_TRACE}-{PARENT_ID}-01")
    spans = within(collector.spans, HEADER_TRACE)
    assert "narthex-bridge POST /mcp" in spans and "narthex-server execute_tool traced__trace" in spans
    assert seen["traceparent"].split("-")[1] == HEADER_TRACE
    assert json.loads(read["contents"][0]["text"])["traceparent"].split("-")[1] == HEADER_TRACE
    assert attributes(spans["narthex-bridge resources/read"])["mcp.resource.uri"] == "trace:me"


async def test_errors_are_in_spans_without_their_texts(tmp_path, collector, exporting):
    async with stack(tmp_path, "--otel-service-name", "mine", "--otel-arguments", **exporting) as running:
        await running.ask(
            "tools/call",
            {"name": "traced__fail", "arguments": {"a": 1, "token": "x"}, "_meta": {"traceparent": SAMPLED}},
        )
        uri = "trace://ann:hunter22@host/me?key=hunter22"
        await running.ask("resources/read", {"uri": uri, "_meta": {"traceparent": SAMPLED}})
        async with grpc.aio.insecure_channel(running.grpc) as channel:
            request = wire.CallToolRequest(name="no such secret", arguments=b"{}")
            with pytest.raises(grpc.aio.AioRpcError):
                metadata = (("traceparent", f"00-{HEADER_TRACE}-{PARENT_ID}-01"),)
                async for _ in ToolServiceStub(channel).CallTool(request, metadata=metadata, timeout=READY_S):
                    pass
    failed = within(collector.spans, TRACE_ID)["mine execute_tool traced__fail"]
    assert failed.status == Status(code=Status.STATUS_CODE_ERROR)
    assert attributes(failed)["error.type"] == "tool_error"
    assert attributes(failed)["gen_ai.tool.call.arguments"] == '{"a":1,"token":"[redacted]"}'
    refused = within(collector.spans, HEADER_TRACE)["mine narthex.v1.ToolService/CallTool"]
    assert attributes(refused)["error.type"] == "TOOL_NOT_FOUND"
    assert attributes(refused)["rpc.response.status_code"] == "NOT_FOUND"
    read = within(collector.spans, TRACE_ID)["narthex-bridge resources/read"]
    assert attributes(read)["mcp.resource.uri"] == "trace://host/me"
    for secret in (b"no such secret", b"hunter22"):
        assert not any(secret in span.SerializeToString() for _, span in collector.spans)


def conventions() -> set[str]:
    """The attributes that OpenTelemetry's semantic conventions name."""
    names = (f"{attributes_of.__name__}.{one.name}" for one in iter_modules(attributes_of.__path__))
    modules = map(importlib.import_module, names)
    return {value for module in modules for name, value in vars(module).items() if name.isupper()}


async def test_spans_keep_to_the_conventions_for_generative_ai_and_mcp(tmp_path, collector, exporting):
    parent = {"traceparent": SAMPLED}
    async with stack(tmp_path, **exporting) as running:
        await running.seen(meta=parent)
        await running.ask("resources/read", {"uri": "trace:me", "_meta": parent})
        await running.ask("tools/list", {"_meta": parent})
    spans = within(collector.spans, TRACE_ID)
    named = {name for span in spans.values() for name in attributes(span)}
    assert {name for name in named - conventions() if not name.startswith("narthex.")} == set()
    for kind, target in (("tools/call", " traced__trace"), ("resources/read", ""), ("tools/list", "")):
        request = spans[f"narthex-bridge {kind}{target}"]
        told = attributes(request)
        assert request.kind == Span.SPAN_KIND_SERVER and told["mcp.method.name"] == kind
        assert told.keys() >= {"jsonrpc.request.id", "mcp.protocol.version", "mcp.session.id"}
    tool = spans["narthex-server execute_tool traced__trace"]
    told = attributes(tool)
    assert told["gen_ai.operation.name"] == "execute_tool"
    assert (told["gen_ai.tool.name"], told["gen_ai.tool.type"]) == ("traced__trace", "extension")
    assert (tool.kind, told["mcp.method.name"]) == (Span.SPAN_KIND_CLIENT, "tools/call")
    assert attributes(spans["narthex-server narthex.v1.ToolService/CallTool"])["rpc.system.name"] == "grpc"


async def test_serve_has_both_send_their_spans(tmp_path, collector):
    config = tmp_path / "mcp.json"
    config.write_text(json.dumps({"mcpServers": {"traced": {"command": sys.executable, "args": [str(TRACED)]}}}))
    free = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mcp-config", config)
    to = ("--otel-endpoint", f"http://127.0.0.1:{collector.port}")
    async with started("narthex.cli.main", "serve", *free, *to, log=tmp_path / "log") as ready:
        await Stack(ready["http"], ready["grpc"], tmp_path / "log").seen(meta={"traceparent": SAMPLED})
    services = {name.split()[0] for name in within(collector.spans, TRACE_ID)}
    assert services == {"narthex-bridge", "narthex-server"}


async def test_what_its_caller_does_not_sample_is_passed_on_but_not_sent(tmp_path, collector, exporting):
    async with stack(tmp_path, **exporting) as running:
        seen = await running.seen(meta={"traceparent": DROPPED})
    assert seen["traceparent"].startswith(f"00-{TRACE_ID}-") and seen["traceparent"].endswith("-00")
    assert within(collector.spans, TRACE_ID) == {}


async def test_without_a_collector_the_trace_is_passed_on_as_it_came(tmp_path):
    async with stack(tmp_path) as running:
        state = {"traceparent": SAMPLED, "tracestate": "vendor=1"}
        assert await running.seen(meta=state) == state
        assert await running.seen(**state) == state, "also from the headers"
        assert await running.seen(meta={"traceparent": "no such thing"}) == {"traceparent": "no such thing"}
        assert await running.seen() == {}
        async with grpc.aio.insecure_channel(running.grpc) as channel:
            asked = wire.CallToolRequest(name="traced__trace", arguments=b"{}")
            asked.mcp.meta = json.dumps(state).encode()
            *_, last = [e async for e in ToolServiceStub(channel).CallTool(asked, timeout=READY_S)]
            assert state.items() <= json.loads(json.loads(last.result.content)[0]["text"]).items()
    assert running.log.read_text().count(f"trace={TRACE_ID}") == 3


async def test_opentelemetry_is_not_imported_where_nothing_is_exported():
    check = """
import sys, narthex_server.app, narthex_bridge.app
from narthex.tracing.settings import Otel
Otel().tracer("x")
exporting = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "narthex.tracing.export")
assert not [name for name in sys.modules if name.startswith(exporting)]
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", check)
    assert await process.wait() == 0


async def test_the_calls_of_a_batch_are_parts_of_it(tmp_path, collector, exporting):
    async with stack(tmp_path, **exporting) as running, grpc.aio.insecure_channel(running.grpc) as channel:
        request = wire.CallToolsRequest(calls=[wire.ToolInvocation(name="traced__trace")] * 2)
        metadata = (("traceparent", SAMPLED), ("tracestate", "vendor=1"))
        async for event in ToolServiceStub(channel).CallTools(request, metadata=metadata, timeout=READY_S):
            assert event.event.HasField("result")
    spans = [span for _, span in collector.spans if span.trace_id.hex() == TRACE_ID]
    (batch,) = (span for span in spans if span.name.endswith("/CallTools"))
    calls = [span for span in spans if span.name.endswith("/CallTool")]
    assert batch.parent_span_id.hex() == PARENT_ID
    assert len(calls) == 2 and {call.parent_span_id for call in calls} == {batch.span_id}
    assert {span.parent_span_id for span in spans if span.name.startswith("execute_tool")} == {
        call.span_id for call in calls
    }
