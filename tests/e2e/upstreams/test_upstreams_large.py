"""Answers of many megabytes."""

import asyncio
import gc
import json
import time

import pytest
from narthex_server.errors import ResourceExhausted, Unavailable
from narthex_server.tools.server import ServerState

MIB = 1024 * 1024


def asked(size: int) -> bytes:
    return json.dumps({"size": size}).encode()


async def test_an_answer_over_the_limit_fails_its_call_with_both_numbers_and_the_server_stays(gateway, script):
    async with gateway({"large": script("large")}, max_bytes=MIB) as running:
        with pytest.raises(ResourceExhausted, match=r"answered with \d+ bytes; at most 1048576") as caught:
            await running.call("large__give", asked(50 * MIB))
        error = caught.value
        assert error.reason == "MESSAGE_TOO_LARGE" and error.metadata["max_bytes"] == str(MIB)
        assert int(error.metadata["bytes"]) > 49 * MIB
        assert running.status("large").state is ServerState.READY
        assert json.loads((await running.call("large__small"))[-1].content) == [{"type": "text", "text": "small"}]


async def test_a_line_that_is_no_message_is_skipped_however_long_it_is(gateway, script):
    async with gateway({"large": script("large")}, max_bytes=MIB) as running:
        (result,) = await running.call("large__flood", asked(20 * MIB))
        assert json.loads(result.content) == [{"type": "text", "text": "small"}]


async def test_a_large_answer_is_passed_on_as_it_came(gateway, script):
    async with gateway({"large": script("large")}) as running:
        (given,) = await running.call("large__give", asked(12 * MIB))
        assert json.loads(given.content) == [{"type": "text", "text": "é" * (2 * MIB)}]
        (table,) = await running.call("large__rows", asked(4 * MIB))
        rows = json.loads(table.structured_content)["rows"]
        assert len(rows) == 4 * MIB // 55 and rows[-1] == {"id": len(rows) - 1, "big": 2**70, "ok": True}
        assert json.loads(table.content) == [{"type": "text", "text": "small"}]


@pytest.fixture
def collected():
    """What other tests have left is not collected meanwhile."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


async def test_reading_a_large_answer_leaves_the_event_loop_to_the_others(gateway, script, collected):
    async with gateway({"large": script("large"), "other": script("large")}) as running:
        longest, stop = 0.0, asyncio.Event()

        async def watch() -> None:
            nonlocal longest
            while not stop.is_set():
                before = time.thread_time()
                await asyncio.sleep(0)
                longest = max(longest, time.thread_time() - before)

        async def others() -> None:
            while not stop.is_set():
                await running.call("other__small")

        beside = asyncio.gather(watch(), others())
        (table,) = await running.call("large__rows", asked(12 * MIB))
        stop.set()
        await beside
        assert len(table.structured_content) > 8 * MIB
        assert longest < 0.05  # of CPU time; reading it here takes several times as much


@pytest.mark.parametrize("name", ["bad", "odd"])
async def test_a_large_answer_that_is_none_fails_its_call_alone(gateway, script, name):
    async with gateway({"large": script("large")}) as running:
        with pytest.raises(Unavailable, match="not a result"):
            await running.call(f"large__{name}", asked(MIB))
        (given,) = await running.call("large__give", asked(MIB))
        assert len(given.content) > MIB / 4


async def test_several_large_answers_at_once_are_read_one_after_the_other(gateway, script):
    async with gateway({"large": script("large")}) as running:
        calls = (running.call("large__give", asked(size * MIB)) for size in range(1, 6))
        sizes = [len(events[-1].content) for events in await asyncio.gather(*calls)]
        assert sizes == sorted(sizes) and sizes[0] > MIB / 4
