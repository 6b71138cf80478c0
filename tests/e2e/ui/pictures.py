"""The pictures of docs/ui.md, taken anew of a server at work: python -m tests.e2e.ui.pictures."""

import asyncio
import itertools
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from tests.e2e.processes import started
from tests.e2e.ui.browser import PATIENCE_S, Page, page
from tests.e2e.ui.conftest import ANY, MODEL

IMAGES = Path(__file__).parents[3] / "docs" / "images"
SECONDS = 100
CALLERS = 7
PRIORITIES = ("low", "normal", "high")
UPSTREAMS = {
    "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
    "search": {"url": "http://127.0.0.1:9/mcp"},
}
CLOCK = {"tool_execution": "server", "catalog_tools": ["time__get_current_time"], "temperature": 0}


async def main(images: Path) -> None:
    images.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        (folder / "mcp.json").write_text(json.dumps({"mcpServers": UPSTREAMS}))
        (folder / "browser").mkdir()
        server = await stack.enter_async_context(
            started(
                "narthex_server.main", "--grpc", ANY, "--metrics", ANY, "--model", f"demo={MODEL}", "--threads", 1,
                "--max-slots", 4, "--mcp-config", folder / "mcp.json",
                "--cache-dir", folder / "cache", log=folder / "log",
            )
        )  # fmt: skip
        bridge = await stack.enter_async_context(
            started("narthex_bridge.main", "--http", ANY, "--server", server["grpc"])
        )
        browser = await stack.enter_async_context(page(folder / "browser"))
        url = f"http://{bridge['http']}"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"{url}/v1", timeout=10 * PATIENCE_S))
        await _taken(browser, http, f"{url}/ui", images)


async def _call(http: httpx.AsyncClient, number: int, until: asyncio.Event) -> None:
    """One caller, who comes, asks again and again, and is away for a while."""
    hello = {"model": "demo", "messages": [{"role": "user", "content": "Hello! Who are you?"}]}
    urgent = {"x-narthex-priority": PRIORITIES[number % 3]}
    for turn in itertools.count():
        if until.is_set():
            return
        asked = {**hello, "max_tokens": 100 + 150 * (turn % 3), "ignore_eos": True}
        (await http.post("/chat/completions", json=asked, headers=urgent)).raise_for_status()
        if turn % 4 == 3:
            await asyncio.sleep(2 * number)


async def _park(http: httpx.AsyncClient, until: asyncio.Event) -> None:
    """Work that nobody waits for, some of which asks a tool."""
    for number in itertools.count():
        if until.is_set():
            return
        asked = {"model": "demo", "input": "Tell me a story.", "background": True, "max_output_tokens": 600}
        asked |= CLOCK | {"input": "What time is it in Oslo?"} if number % 3 == 1 else {"ignore_eos": True}
        urgent = {"x-narthex-priority": PRIORITIES[number % 3]}
        (await http.post("/responses", json=asked, headers=urgent)).raise_for_status()
        await asyncio.sleep(SECONDS / 9)


async def _taken(browser: Page, http: httpx.AsyncClient, url: str, images: Path) -> None:
    await browser.resize(1280, 1150)
    await browser.open(url)
    await browser.shows("#upstreams-table", "ready")
    over = asyncio.Event()
    async with asyncio.TaskGroup() as load:
        for number in range(CALLERS):
            load.create_task(_call(http, number, over))
        load.create_task(_park(http, over))
        await browser.run("document.getElementById('chat-text').focus()")
        await browser.type("What happens when everybody comes at once?")
        await browser.press("Enter")
        await browser.shows(".turn:last-child", "tokens in")
        await browser.run("document.activeElement.blur()")
        await asyncio.sleep(SECONDS)
        await browser.until(
            "/[1-9]/.test(document.querySelector('#pools-table tr:last-child td:nth-child(3)').innerText)"
        )
        for scheme in ("light", "dark"):
            await browser.prefer(prefers_color_scheme=scheme)
            await browser.picture(images / f"ui-{scheme}.png")
        await browser.prefer(prefers_color_scheme="light")
        await browser.resize(320, 1150)
        await browser.picture(images / "ui-narrow.png")
        over.set()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
