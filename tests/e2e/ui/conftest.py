"""Pages in a browser, bridges that serve them, and what stands behind these."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import started
from tests.e2e.ui.browser import Page, page
from tests.unit.bridge.ui.lot_server import LotServer, serving

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
ANY = "127.0.0.1:0"


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Page]:
    (tmp_path / "browser").mkdir()
    async with page(tmp_path / "browser") as opened:
        yield opened


@pytest.fixture
def bridged() -> Any:
    """Starts a bridge in front of a server; gives its URL."""

    @asynccontextmanager
    async def start(server: str, *arguments: object) -> AsyncIterator[str]:
        async with started("narthex_bridge.main", "--http", ANY, "--server", server, *arguments) as bridge:
            yield f"http://{bridge['http']}"

    return start


@pytest.fixture
async def demo(tmp_path: Path, bridged: Any) -> AsyncIterator[str]:
    """The URL of a bridge before a server with the demo's model and an upstream."""
    servers = {"mcpServers": {"time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]}}}
    (tmp_path / "mcp.json").write_text(json.dumps(servers))
    async with (
        started(
            "narthex_server.main", "--grpc", ANY, "--metrics", ANY, "--model", f"demo={MODEL}", "--threads", 1,
            "--mcp-config", tmp_path / "mcp.json", "--cache-dir", tmp_path / "cache",
        ) as server,
        bridged(server["grpc"]) as url,
    ):  # fmt: skip
        yield url


@pytest.fixture
async def lot() -> AsyncIterator[LotServer]:
    """A server that tells what the test wants told."""
    async with serving() as service:
        yield service
