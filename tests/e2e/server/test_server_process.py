"""The process: its ready line, health, reflection, keys, TLS, exit codes and the way it ends."""

import asyncio
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from narthex.keys import append_key, new_key
from narthex.v1 import generation_pb2, generation_pb2_grpc, tool_pb2, tool_pb2_grpc

LIST = tool_pb2.ListToolsRequest()


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    return launch("--model", demo, "--mcp-config", str(upstreams))


@pytest.fixture(scope="module")
def gateway(launch, nothing):
    """A server without a model."""
    return launch("--mcp-config", str(nothing))


def run(*arguments: str) -> subprocess.CompletedProcess:
    """A server that is expected to end by itself."""
    command = [sys.executable, "-m", "narthex_server.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


async def test_the_ready_line_names_addresses_models_and_tools(server):
    assert server.ready["models"] == "demo" and int(server.ready["tools"]) >= 4
    assert all(":" in server.ready[key] and not server.ready[key].endswith(":0") for key in ("grpc", "metrics"))


async def test_health_is_serving_as_a_whole_and_for_what_is_built(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "narthex.v1.GenerationService", "narthex.v1.ToolService"):
        reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="narthex.v1.ImageService"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_idle_client_may_look_often_whether_it_still_has_a_connection(gateway):
    often = [("grpc.keepalive_time_ms", 1100), ("grpc.http2.max_pings_without_data", 0)]
    async with grpc.aio.insecure_channel(gateway.grpc, often) as channel:
        watch = tool_pb2_grpc.ToolServiceStub(channel).WatchTools(tool_pb2.WatchToolsRequest())
        await watch.read()
        with pytest.raises(TimeoutError):  # gRPC's default ends the connection at the fourth
            await asyncio.wait_for(watch.read(), 6)


async def test_reflection_lists_the_services_and_gives_their_descriptors(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="narthex.v1.GenerationService"),
    ]
    listed, file = [reply async for reply in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in listed.list_services_response.service}
    assert {"narthex.v1.GenerationService", "narthex.v1.ToolService", "grpc.health.v1.Health"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_gateway_never_loads_onnxruntime(gateway, server):
    def loads(served) -> bool:
        return "onnxruntime" in Path(f"/proc/{served.process.pid}/maps").read_text()

    assert gateway.ready["models"] == "-"
    assert loads(server) and not loads(gateway)


async def test_a_gateway_says_that_it_has_no_model(gateway, failure):
    async with grpc.aio.insecure_channel(gateway.grpc) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        spec = generation_pb2.GenerationSpec(text="Hi")
        caught = await failure(stub.Generate(generation_pb2.GenerateRequest(spec=spec)))
        assert (caught.code, caught.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        names = [tool.name for tool in (await tool_pb2_grpc.ToolServiceStub(channel).ListTools(LIST)).tools]
        assert "chat" not in names


@pytest.mark.parametrize("option", ["--grpc", "--metrics"])
def test_a_port_in_use_names_the_option_to_change(option, nothing):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        others = {"--grpc": "127.0.0.1:0", "--metrics": "127.0.0.1:0"}
        others[option] = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run(*(part for pair in others.items() for part in pair), "--mcp-config", str(nothing))
    assert ended.returncode == 4
    assert option in ended.stderr and others[option] in ended.stderr and "Traceback" not in ended.stderr


def broken(folder: Path) -> dict[str, tuple[Path, str]]:
    """Models that cannot be loaded, and what has to be said of each."""
    (folder / "truncated.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (folder / "text.gguf").write_text("not a model")
    (folder / "folder").mkdir()
    config = {"model_type": "mamba9"}
    (folder / "folder" / "config.json").write_text(json.dumps(config))
    return {
        "missing": (folder / "missing.gguf", "no model at"),
        "truncated": (folder / "truncated.gguf", "truncated.gguf"),
        "text": (folder / "text.gguf", "GGUF"),
        "unknown architecture": (folder / "folder", "llama"),
    }


@pytest.mark.parametrize("kind", ["missing", "truncated", "text", "unknown architecture"])
def test_a_model_that_cannot_be_loaded_ends_the_process_with_the_reason(kind, tmp_path):
    path, said = broken(tmp_path)[kind]
    ended = run("--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--model", f"m={path}")
    assert ended.returncode == 3
    assert "model 'm' cannot be loaded" in ended.stderr and said in ended.stderr
    assert "Traceback" not in ended.stderr and "ready" not in ended.stdout


@pytest.mark.parametrize("text", ["{", "[]", '{"servers": {}}', '{"mcpServers": {"a": {}}}'])
def test_a_broken_mcp_config_is_a_usage_error(text, tmp_path):
    config = tmp_path / "mcp-config.json"
    config.write_text(text)
    ended = run("--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mcp-config", str(config))
    assert ended.returncode == 2 and str(config) in ended.stderr and "Traceback" not in ended.stderr


async def test_keys_are_asked_for_and_a_delegate_speaks_for_others(launch, nothing, tmp_path, failure):
    secret, key = new_key("ci", "acme")
    append_key(tmp_path / "keys.toml", key)
    env = {**os.environ, "NARTHEX_DELEGATE_TOKEN": "between-us"}
    arguments = ("--mcp-config", str(nothing), "--api-key-file", str(tmp_path / "keys.toml"))
    served = launch(*arguments, env=env)
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        tools = tool_pb2_grpc.ToolServiceStub(channel)
        caught = await failure(tools.ListTools(LIST))
        assert caught.code is grpc.StatusCode.UNAUTHENTICATED
        assert (await tools.ListTools(LIST, metadata=(("authorization", f"Bearer {secret}"),))).tools is not None
        asserted = json.dumps({"name": "ann", "tenant": "blue"})
        delegated = (("authorization", "Bearer between-us"), ("x-narthex-principal", asserted))
        await tools.ListTools(LIST, metadata=delegated)
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert "caller=ann" in served.log.read_text() and "between-us" not in served.log.read_text()


def certificate(
    folder: Path, name: str, issuer: tuple | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate for localhost, written to `name.pem` and `name.key`; self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    data = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(data)
    return built, key


async def test_tls_and_client_certificates(launch, nothing, tmp_path):
    authority = certificate(tmp_path, "authority")
    for name in ("server", "client"):
        certificate(tmp_path, name, authority)

    def file(name: str) -> bytes:
        return (tmp_path / name).read_bytes()

    served = launch(
        "--mcp-config", str(nothing),
        "--tls-cert", str(tmp_path / "server.pem"),
        "--tls-key", str(tmp_path / "server.key"),
        "--tls-client-ca", str(tmp_path / "authority.pem"),
    )  # fmt: skip
    target = f"localhost:{served.grpc.rpartition(':')[2]}"
    known = grpc.ssl_channel_credentials(file("authority.pem"), file("client.key"), file("client.pem"))
    async with grpc.aio.secure_channel(target, known) as channel:
        await tool_pb2_grpc.ToolServiceStub(channel).ListTools(LIST, timeout=20)
    stranger = grpc.ssl_channel_credentials(file("authority.pem"))
    async with grpc.aio.secure_channel(target, stranger) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tool_pb2_grpc.ToolServiceStub(channel).ListTools(LIST, timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_sigterm_lets_running_streams_finish_and_leaves_nothing_behind(launch, demo, upstreams):
    served = launch("--model", demo, "--mcp-config", str(upstreams))
    upstream_processes = children(served.process.pid)
    assert upstream_processes
    async with grpc.aio.insecure_channel(served.grpc) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        watch = tool_pb2_grpc.ToolServiceStub(channel).WatchTools(tool_pb2.WatchToolsRequest())
        await watch.read()
        spec = generation_pb2.GenerationSpec(text="Once")
        spec.stopping.max_tokens, spec.stopping.ignore_eos = 400, True
        stream = stub.GenerateStream(generation_pb2.GenerateStreamRequest(spec=spec))
        for _ in range(3):
            await stream.read()
        served.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while (event := await stream.read()) is not grpc.aio.EOF:
                last = event
        assert last.finished.usage.completion_tokens == 400
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CountTokens(generation_pb2.CountTokensRequest(text="late"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        watch.cancel()
    assert await asyncio.to_thread(served.process.wait, 20) == 0
    assert not alive(upstream_processes)


def test_an_interrupt_exits_with_130(launch, nothing):
    served = launch("--mcp-config", str(nothing))
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(timeout=20) == 130
