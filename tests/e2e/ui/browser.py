"""A headless Chromium, driven over its own protocol (CDP)."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

PATIENCE_S = 30
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "--hide-scrollbars",
)  # fmt: skip
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "Escape": (27, "")}


class PageError(Exception):
    """What a page said that a test had it do."""


@dataclass
class Page:
    """A tab. `errors` is what its console has of errors and warnings, `requests` all URLs that it asked for."""

    browser: ClientConnection
    session: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _ids: Any = field(default_factory=lambda: itertools.count(1))
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def command(self, method: str, **params: Any) -> Any:
        id = next(self._ids)
        self._answers[id] = asyncio.get_running_loop().create_future()
        await self.browser.send(json.dumps({"id": id, "sessionId": self.session, "method": method, "params": params}))
        return await asyncio.wait_for(self._answers[id], PATIENCE_S)

    async def open(self, url: str) -> None:
        await self.command("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def run(self, expression: str) -> Any:
        """What an expression in the page comes to; of a promise what it is resolved with."""
        answer = await self.command(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise PageError(json.dumps(answer["exceptionDetails"]["exception"].get("description")))
        return answer["result"].get("value")

    async def until(self, condition: str) -> Any:
        """Waits until an expression is true in the page; gives its value."""
        for _ in range(3):  # a page that is left takes what ran in it along
            with contextlib.suppress(PageError):
                return await self.run(
                    f"new Promise((met) => {{ const look = () => {{ const found = ({condition});"
                    " found ? met(found) : setTimeout(look, 20); }; look(); })"
                )
        raise PageError(condition)

    async def text(self, selector: str) -> str:
        found: str = await self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    async def shows(self, selector: str, text: str) -> None:
        """Waits until an element has a text in it."""
        await self.until(f"document.querySelector({json.dumps(selector)})?.innerText.includes({json.dumps(text)})")

    async def press(self, key: str, *, shift: bool = False) -> None:
        code, text = KEYS[key]
        said = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        await self.command("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **said)
        await self.command("Input.dispatchKeyEvent", type="keyUp", **said)

    async def type(self, text: str) -> None:
        await self.command("Input.insertText", text=text)

    async def tab_to(self, id: str) -> None:
        """Presses Tab until an element has the focus."""
        for _ in range(40):
            if await self.run("document.activeElement.id") == id:
                return
            await self.press("Tab")
        raise PageError(f"#{id} cannot be reached with the keyboard")

    async def resize(self, width: int, height: int) -> None:
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def prefer(self, **features: str) -> None:
        """Media features such as `prefers_color_scheme="dark"`."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.command("Emulation.setEmulatedMedia", features=wanted)

    async def picture(self, path: Path) -> None:
        answer = await self.command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def _hear(self, message: dict[str, Any]) -> None:
        if "id" in message:
            answer = self._answers.pop(message["id"], None)
            if answer is None or answer.done():
                return
            if "error" in message:
                answer.set_exception(PageError(message["error"]["message"]))
            else:
                answer.set_result(message["result"])
            return
        params = message.get("params", {})
        match message["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


@asynccontextmanager
async def page(folder: Path) -> AsyncIterator[Page]:
    """A tab of a browser of its own, whose files go into an empty folder."""
    program = shutil.which("chromium")
    assert program, "chromium is missing: apt-get install chromium (.ci/run does)"
    process = await asyncio.create_subprocess_exec(
        program, *FLAGS, f"--user-data-dir={folder}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=os.environ | {"HOME": str(folder)},
    )  # fmt: skip
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            address = await _address(process)
        tasks.append(asyncio.create_task(process.stderr.read()))
        async with connect(address, max_size=None, compression=None, ping_interval=None) as browser:
            opened = await _opened(browser)
            tasks.append(asyncio.create_task(_read(opened)))
            for domain in ("Page", "Runtime", "Network", "Log"):
                await opened.command(f"{domain}.enable")
            yield opened
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _address(process: asyncio.subprocess.Process) -> str:
    while line := (await process.stderr.readline()).decode():
        if line.startswith("DevTools listening on "):
            return line.removeprefix("DevTools listening on ").strip()
    raise PageError("chromium ended")


async def _opened(browser: ClientConnection) -> Page:
    async def ask(method: str, **params: Any) -> Any:
        await browser.send(json.dumps({"id": 0, "method": method, "params": params}))
        while (answer := json.loads(await browser.recv())).get("id") != 0:
            pass
        return answer["result"]

    target = (await ask("Target.createTarget", url="about:blank"))["targetId"]
    session = (await ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
    return Page(browser, session)


async def _read(opened: Page) -> None:
    async for message in opened.browser:
        opened._hear(json.loads(message))
