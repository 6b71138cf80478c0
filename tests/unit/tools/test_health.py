import asyncio

import pytest
from narthex_server.tools.upstream.health import Health, HealthSettings, Unhealthy

SETTINGS = HealthSettings(interval=30.0, timeout=0.01, misses=2)


class Script:
    """A server that answers as it is told, and a sleep that only notes how long; at the end of both it waits."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.slept: list[float] = []
        self.over = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def ask(self) -> None:
        if not self.answers:
            self.over.set()
            await asyncio.Event().wait()
        match self.answers.pop(0):
            case "silence":
                await asyncio.Event().wait()
            case "broken":
                raise Unhealthy

    async def watched(self, busy: bool = False) -> tuple[str, Health]:
        """Why the server counts as lost, empty if it does not by the end of its answers."""
        health = Health(SETTINGS, self.sleep)
        watching = asyncio.create_task(health.watch(self.ask, lambda: busy))
        over = asyncio.create_task(self.over.wait())
        await asyncio.wait({watching, over}, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        reason = watching.result() if watching.done() else ""
        for task in (watching, over):
            task.cancel()
        await asyncio.gather(watching, over, return_exceptions=True)
        return reason, health


@pytest.mark.parametrize("miss", ["silence", "broken"])
async def test_two_misses_in_a_row_are_the_end(miss):
    reason, health = await Script("fine", miss, miss).watched()
    assert reason == "did not answer 2 health checks in a row" and health.failures == 2


async def test_one_miss_is_forgiven_when_the_next_answer_comes():
    reason, health = await Script("silence", "fine", "silence", "fine").watched()
    assert not reason and health.failures >= 2


async def test_a_server_in_the_middle_of_a_call_may_be_silent():
    reason, _ = await Script("silence", "silence", "silence", "fine").watched(busy=True)
    assert not reason


async def test_after_a_miss_it_is_asked_again_without_the_long_wait():
    script = Script("fine", "silence", "fine")
    await script.watched()
    first, second, after_miss, *_ = script.slept
    assert 27 <= first <= 33 and 27 <= second <= 33 and first != second
    assert after_miss == 0.0
