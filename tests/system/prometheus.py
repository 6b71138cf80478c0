"""A real Prometheus, with the configuration and the rules of deploy/, that looks at processes of a test."""

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
EVERY = "500ms"
PATIENCE_S = 45

T = TypeVar("T")
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Its HTTP API."""

    client: httpx.AsyncClient

    async def ask(self, path: str, **params: str) -> Any:
        answer = (await self.client.get(f"/api/v1/{path}", params=params)).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def values(self, expr: str) -> list[tuple[Labels, float]]:
        """What an expression is now, without values that say nothing (NaN)."""
        found = (await self.ask("query", query=expr))["result"]
        pairs = [(one["metric"], float(one["value"][1])) for one in found]
        return [(labels, value) for labels, value in pairs if not math.isnan(value)]

    async def rules(self) -> list[dict[str, Any]]:
        return [rule for group in (await self.ask("rules"))["groups"] for rule in group["rules"]]

    async def firing(self, name: str, **labels: str) -> dict[str, Any]:
        """Waits until this alert fires; gives it."""

        async def fires() -> dict[str, Any] | None:
            for alert in (await self.ask("alerts"))["alerts"]:
                found = alert["labels"]
                if found["alertname"] == name and alert["state"] == "firing" and labels.items() <= found.items():
                    return alert
            return None

        return await until(fires, f"{name} fires for {labels}")

    async def resolved(self, name: str) -> None:
        """Waits until no alert of this name is there."""

        async def quiet() -> bool:
            return all(alert["labels"]["alertname"] != name for alert in (await self.ask("alerts"))["alerts"])

        await until(quiet, f"{name} is over")


async def until(condition: Callable[[], Awaitable[T | None]], what: str) -> T:
    """What the condition gives, once that is something."""
    for _ in range(PATIENCE_S * 4):
        if found := await condition():
            return found
        await asyncio.sleep(0.25)
    raise AssertionError(f"waited {PATIENCE_S} s in vain: {what}")


def configured(folder: Path, targets: Mapping[str, str]) -> Path:
    """The files of deploy/ with other targets, short intervals, and alerts that fire without waiting."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
    assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
    for job in config["scrape_configs"]:
        job.pop("authorization", None)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    for name in config["rule_files"]:
        rules = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        for rule in (rule for group in rules["groups"] for rule in group["rules"]):
            rule.pop("for", None)
        (folder / name).write_text(yaml.safe_dump(rules))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


@contextlib.asynccontextmanager
async def watching(folder: Path, targets: Mapping[str, str]) -> AsyncIterator[Prometheus]:
    """A Prometheus that keeps its data in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus", f"--config.file={configured(folder, targets)}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}", stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as client:
            prometheus = Prometheus(client)

            async def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get("/-/ready")).is_success
                return False

            await until(ready, f"Prometheus is ready; its log is {folder / 'log'}")
            yield prometheus
    finally:
        process.terminate()
        await process.wait()
