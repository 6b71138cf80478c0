"""Images, compose file and units: linted, and run as far as they run without a daemon."""

import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from narthex.settings import load
from narthex_bridge.config.bridge import BridgeConfig
from narthex_server.config.server import ServerConfig

from tests.system.command import done, ended
from tests.system.conftest import ROOT, Stack
from tests.system.prometheus import DEPLOY

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNITS = sorted((DEPLOY / "systemd").iterdir())
COPIED = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
async def test_images_pass_the_linter(name):
    assert await done("hadolint", DEPLOY / name) == ""


async def test_what_the_image_copies_is_enough_to_build_narthex(tmp_path):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    copied = [
        source for sources in COPIED.findall((DEPLOY / "Dockerfile.cpu").read_text()) for source in sources.split()
    ]
    assert {path.split("/")[0] for path in allowed} == {path.split("/")[0] for path in copied}
    for path in allowed:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_file():
            shutil.copy(ROOT / path, tmp_path / path)
        else:
            shutil.copytree(ROOT / path, tmp_path / path, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(tmp_path / "clients" / "python" / "narthex" / "v1")  # left out by the last lines
    await done(sys.executable, "scripts/generate_protos.py", cwd=tmp_path)
    await done(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "out", ".", cwd=tmp_path)
    [wheel] = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as packed:
        assert {
            "narthex/v1/tool_pb2_grpc.py", "narthex_bridge/main.py", "narthex_demo/tiny-tool-demo-q8_0.gguf",
        } <= set(packed.namelist())  # fmt: skip


async def test_the_compose_file_is_one():
    assert "ok" in await done("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


@pytest.mark.parametrize("name", COMPOSE["services"])
async def test_services_are_kept_in_and_looked_after(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "privileged" not in service
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (DEPLOY / source).exists(), volume
        else:
            assert source in COMPOSE["volumes"] or source.startswith("${"), volume


@pytest.mark.parametrize(("process", "port", "address"), [("server", "50051", "grpc"), ("bridge", "4321", "http")])
async def test_health_checks_tell_a_process_that_serves_from_none(stack: Stack, process, port, address):
    _, _, *command = COMPOSE["services"][process]["healthcheck"]["test"]
    await done(
        sys.executable, *(part.replace(f"127.0.0.1:{port}", getattr(stack, process)[address]) for part in command)
    )
    nowhere = [part.replace(f"127.0.0.1:{port}", "127.0.0.1:9") for part in command]
    assert (await ended(sys.executable, *nowhere)).returncode != 0


async def test_the_settings_of_the_containers_can_be_used(stack: Stack):
    file = DEPLOY / "narthex.toml"
    server = load(ServerConfig, "server", {}, file=file)
    bridge = load(BridgeConfig, "bridge", {}, file=file)
    assert str(server.grpc) == "0.0.0.0:50051" and bridge.server.port == server.grpc.port
    assert bridge.api_key_file == server.api_key_file == Path("/run/secrets/keys")
    inside = {target for volume in COMPOSE["services"]["server"]["volumes"] for target in volume.split(":")[-2:]}
    assert {str(server.mcp_config), str(server.model_root)} <= inside
    assert tomllib.loads(file.read_text())["server"]["model"] == {}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
async def test_units_are_understood_and_kept_in(tmp_path, unit):
    there = tmp_path / unit.name  # a program that exists, as the one of the unit is not installed here
    there.write_text(unit.read_text().replace("/opt/narthex/bin/narthex", "/bin/true"))
    assert await done("systemd-analyze", "verify", there) == ""
    await done("systemd-analyze", "security", "--offline=yes", "--threshold=30", there)


async def test_provisioning_leads_grafana_to_the_dashboard():
    folder = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((folder / "dashboards" / "narthex.yaml").read_text())["providers"]
    mounted = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert mounted["./grafana/dashboards"] == provider["options"]["path"]
