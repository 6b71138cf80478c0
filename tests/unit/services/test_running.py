"""Abort ends the caller's own work and nobody else's."""

import asyncio

import pytest
from narthex_server.services.running import Running


class Engine:
    """Knows request ids only, as the real one does."""

    def __init__(self) -> None:
        self.working: set[str] = set()
        self.aborted: list[str] = []

    @property
    def handle(self) -> "Engine":
        return self

    def abort(self, request_id: str) -> bool:
        self.aborted.append(request_id)
        return request_id in self.working


@pytest.fixture
def engine():
    return Engine()


async def started(running: Running, engine: Engine, tenant: str, ready: asyncio.Event) -> str:
    with running.enter("r", tenant, engine):  # type: ignore[arg-type]
        ready.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return f"{tenant} cancelled"


async def begun(running, engine, *tenants):
    tasks = []
    for tenant in tenants:
        ready = asyncio.Event()
        tasks.append(asyncio.create_task(started(running, engine, tenant, ready)))
        await asyncio.wait_for(ready.wait(), 5)
    return tasks


async def test_work_in_the_engine_is_ended_there(engine):
    running, engine.working = Running(), {"r"}
    (task,) = await begun(running, engine, "a")
    assert running.abort("r", "a") and engine.aborted == ["r"] and not task.cancelling()
    task.cancel()


async def test_work_between_rounds_is_cancelled(engine):
    running = Running()
    (task,) = await begun(running, engine, "a")
    assert running.abort("r", "a")
    assert await asyncio.wait_for(task, 5) == "a cancelled"
    assert not running.abort("r", "a")


async def test_another_tenants_work_of_the_same_id_goes_on(engine):
    running, engine.working = Running(), {"r", "r#2"}
    mine, theirs = await begun(running, engine, "a", "b")
    assert not running.abort("r", "c")
    assert running.abort("r", "b")
    assert engine.aborted == ["r#2"] and not mine.cancelling()
    for task in (mine, theirs):
        task.cancel()
