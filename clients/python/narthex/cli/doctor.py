"""`narthex doctor`: what this machine has, what is in the way, and what to do about it."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from narthex.cli.environment import python_module
from narthex.cli.exits import Exit
from narthex.cli.main import PROCESSES, installed
from narthex.cli.serve import BridgeSide, ServerSide, port_problem
from narthex.settings import SECTIONS, SettingsError, config_file, load, option

CHECK = "narthex.cli.config"
RUNTIME = """
import json, onnxruntime
from narthex_server.errors import NotOnDevice
from narthex_server.runtime.device import find_cuda
try:
    gpu, missing = str(find_cuda(0)), ""
except NotOnDevice as reason:
    gpu, missing = "", reason.message
print(json.dumps([onnxruntime.__version__, onnxruntime.get_available_providers(), gpu, missing]))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `advice` is what to do about it, empty where nothing is to be done."""

    verdict: Literal["ok", "note", "problem"]
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.text}" + (f"\n         -> {self.advice}" if self.advice else "")


@dataclass(frozen=True, slots=True)
class Upstreams:
    mcp_config: Path | None = option(None, "look for the commands of this mcp-config.json")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a narthex.toml (or NARTHEX_CONFIG)")
    parser.add_argument("--mcp-config", metavar="FILE", help="look for the commands of this mcp-config.json")


def run(arguments: argparse.Namespace) -> int:
    findings = list(examine(config_file(arguments.config), vars(arguments)))
    for finding in findings:
        print(finding)
    return Exit.INTERNAL if any(finding.verdict == "problem" for finding in findings) else Exit.OK


def examine(file: Path | None, flags: dict[str, Any]) -> Iterator[Finding]:
    yield from machine()
    yield from packages()
    yield from providers()
    flags = {name: value for name, value in flags.items() if name != "config"}
    server = load(ServerSide, "server", flags, file=file, partial=True)
    bridge = load(BridgeSide, "bridge", flags, file=file, partial=True)
    for flag, address in (("--grpc", server.grpc), ("--http", bridge.http), ("--metrics", server.metrics)):
        if problem := port_problem(address):
            yield Finding("problem", f"{flag} {address}: {problem}", f"end what uses it, or choose another with {flag}")
        else:
            yield Finding("ok", f"{flag} {address} is free")
    yield from settings(file, flags.get("mcp_config"))
    upstreams = load(Upstreams, "server", flags, file=file, partial=True)
    yield from commands(upstreams.mcp_config) if upstreams.mcp_config else demo()


def settings(file: Path | None, mcp_config: str | None) -> Iterator[Finding]:
    """Whether each process can use all its settings; each is asked, because it alone knows them."""
    for section in SECTIONS:
        try:
            installed(section)
        except SettingsError:
            continue  # which is told already
        flags = ["--config", str(file)] if file else []
        flags += ["--mcp-config", mcp_config] if mcp_config and section == "server" else []
        asked = subprocess.run(python_module(CHECK, section, *flags), capture_output=True, text=True)
        if asked.returncode:
            for line in asked.stderr.splitlines():
                yield Finding("problem", line.removeprefix(f"narthex {section}: "), "correct it where it is set")
        else:
            yield Finding("ok", f"the {section} can use its settings")


def machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    yield Finding("ok", f"Python {platform.python_version()} on {platform.platform()}, {cores} cores")
    if sys.platform == "linux":
        memory = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(memory["MemAvailable"].split()[0]) / 2**20
        if free < 1:
            yield Finding(
                "note", f"{free:.1f} GiB of memory free", "the demo needs less than 1 GiB, larger models more"
            )
        else:
            yield Finding("ok", f"{free:.1f} GiB of memory free")


def packages() -> Iterator[Finding]:
    for name in PROCESSES:
        try:
            installed(name)
            yield Finding("ok", f"narthex[{name}] is installed")
        except SettingsError as error:
            yield Finding("problem", str(error).partition(";")[0], f"pip install 'narthex[{name}]'")


def providers() -> Iterator[Finding]:
    asked = subprocess.run([sys.executable, "-P", "-c", RUNTIME], capture_output=True, text=True)
    if asked.returncode:
        reason = asked.stderr.strip().rpartition("\n")[2]
        yield Finding(
            "note", f"ONNX Runtime cannot be imported: {reason}", "models need it: pip install 'narthex[server]'"
        )
        return
    version, available, gpu, missing = json.loads(asked.stdout)
    yield Finding("ok", f"ONNX Runtime {version} with {', '.join(available)}")
    what, _, advice = missing.rpartition("; ")
    if gpu:
        yield Finding("ok", f"{gpu} can be used; models run there with --device auto or cuda")
    elif shutil.which("nvidia-smi"):
        yield Finding("note", f"an NVIDIA GPU is here, but models run on the CPU: {what or missing}", advice)
    else:
        yield Finding("ok", f"models run on the CPU: {what or missing}")


def commands(file: Path) -> Iterator[Finding]:
    """Whether each upstream that is a process has its command on this machine."""
    try:
        document = json.loads(file.read_text("utf-8"))
        found = dict(_processes(document))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        yield Finding("problem", f"{file} cannot be used: {error}", "see docs/upstreams.md for its two forms")
        return
    for name, command in found.items():
        if where := shutil.which(command):
            yield Finding("ok", f"upstream {name}: {where}")
        else:
            yield Finding(
                "problem", f"upstream {name}: {command} is not on this machine", "install it, or correct PATH"
            )


def demo() -> Iterable[Finding]:
    asked = subprocess.run(
        [sys.executable, "-P", "-c", "import mcp_server_time, narthex_mcp.workspace"], capture_output=True
    )
    if asked.returncode:
        return [Finding("note", "the demo's upstreams are not installed", "pip install 'narthex[server,demo]'")]
    return [Finding("ok", "the demo's upstreams are installed")]


def _processes(document: Any) -> Iterator[tuple[str, str]]:
    for server in document.get("servers", []):
        if server.get("enabled", True) and server["source"].get("type") == "Process":
            yield server["name"], server["source"]["command"]
    for name, server in document.get("mcpServers", {}).items():
        if "command" in server and not server.get("disabled", False):
            yield name, server["command"]
