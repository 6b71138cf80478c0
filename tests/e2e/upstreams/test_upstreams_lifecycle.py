"""Upstreams that die, hang, flap and change, over real processes."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from time import time

import pytest
from narthex_server.errors import Unavailable
from narthex_server.principal import LOCAL
from narthex_server.tools.server import BreakerState, ServerState
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.health import HealthSettings

EAGER = HealthSettings(interval=0.05, timeout=0.2, misses=2)


def text(events) -> str:
    return json.loads(events[-1].content)[0]["text"]


async def echo(running, server: str) -> str:
    return text(await running.call(f"{server}__echo", b'{"text":"here"}'))


def vitals(running, name: str):
    return running.catalog.roster.vitals()[name]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def reconnected(running, name: str, times: int = 1) -> None:
    await running.until(
        lambda: vitals(running, name).reconnects >= times and running.status(name).state is ServerState.READY
    )


async def test_killed_in_a_call_it_is_unavailable_and_the_next_call_works(gateway, script):
    async with gateway({"one": script("shaky"), "two": script("shaky")}) as running:
        pid = int(text(await running.call("one__pid")))
        call = asyncio.create_task(running.call("one__sleep", b'{"seconds":60}'))
        beside = asyncio.create_task(running.call("two__sleep", b'{"seconds":0.3}'))
        assert await echo(running, "one") == "here"  # after the other call, which it therefore has
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="SIGKILL"):
            await call
        await reconnected(running, "one")
        assert await echo(running, "one") == "here"
        await beside
        now = vitals(running, "one")
        assert (now.restarts, now.reconnects, now.trips, now.breaker) == (1, 1, 0, BreakerState.CLOSED)
        assert vitals(running, "two").restarts == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process that leaves the group is not found")
async def test_what_a_killed_server_had_started_goes_with_it(gateway, script, tmp_path, gone):
    pids = tmp_path / "pids"
    async with gateway({"one": script("shaky", "littering", str(pids))}) as running:
        pid, *others = [int(pid) for pid in pids.read_text().split()]
        call = asyncio.create_task(running.call("one__sleep", b'{"seconds":60}'))
        assert await echo(running, "one") == "here"
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="SIGKILL"):
            await asyncio.wait_for(call, 5)  # although a child of it holds its pipes
        for other in others:
            await gone(other)
        await reconnected(running, "one")
        assert await echo(running, "one") == "here"
    assert len(pids.read_text().split()) == 6
    for pid in pids.read_text().split():
        await gone(int(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no warden")
async def test_a_server_whose_warden_is_killed_dies_with_it_and_is_restarted(gateway, script, gone):
    before = children(os.getpid())
    async with gateway({"one": script("shaky")}) as running:
        pid = int(text(await running.call("one__pid")))
        (warden,) = set(children(os.getpid())) - set(before)
        os.kill(warden, signal.SIGKILL)
        await gone(pid)
        await reconnected(running, "one")
        assert await echo(running, "one") == "here"


async def test_a_server_that_hangs_is_found_and_restarted(gateway, script, gone):
    async with gateway({"one": script("shaky")}, health=EAGER) as running:
        pid = int(text(await running.call("one__pid")))
        await running.call("one__freeze")
        await reconnected(running, "one")
        assert await echo(running, "one") == "here"
        assert vitals(running, "one").failed_checks >= 2
        await gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_so_is_one_of_the_version_without_ping(gateway, script):
    before = children(os.getpid())
    async with gateway({"rich": script("rich", "stdio")}, health=EAGER) as running:
        assert running.status("rich").protocol_version == "2026-07-28"
        (warden,) = set(children(os.getpid())) - set(before)
        (pid,) = children(warden)
        assert await echo(running, "rich") == "here"
        assert vitals(running, "rich").reconnects == 0
        os.kill(pid, signal.SIGSTOP)
        await reconnected(running, "rich")
        assert await echo(running, "rich") == "here"


async def test_a_server_that_answers_is_left_alone(gateway, script):
    async with gateway({"one": script("shaky")}, health=EAGER) as running:
        while json.loads(text(await running.call("one__counts")))["ping"] < 3:
            pass
        now = vitals(running, "one")
        assert (now.reconnects, now.failed_checks) == (0, 0)


async def test_a_server_that_is_silent_in_a_long_call_keeps_it(gateway, script):
    entry = script("busy")
    async with gateway({"one": entry}, health=HealthSettings(0.05, 0.1, 2)) as running:
        assert text(await running.call("one__block", b'{"seconds":1}')) == "done"
        now = vitals(running, "one")
        assert now.failed_checks >= 2 and now.reconnects == 0


async def test_one_that_fails_again_and_again_is_not_asked_for_a_while(gateway, script):
    settings = BreakerSettings(failures=3, window=30.0, open=0.3)
    async with gateway({"one": script("shaky"), "two": script("shaky")}, breaker=settings) as running:
        for _ in range(3):
            assert (await running.call("one__internal"))[-1].is_error
        with pytest.raises(Unavailable) as caught:
            await echo(running, "one")
        assert caught.value.reason == "UPSTREAM_BREAKER_OPEN"
        assert vitals(running, "one").breaker is BreakerState.OPEN and "one__echo" in running.names()
        assert await echo(running, "two") == "here"
        await asyncio.sleep(int(caught.value.metadata["retry_after_ms"]) / 1000)  # as it says
        assert await echo(running, "one") == "here"
        assert vitals(running, "one").breaker is BreakerState.CLOSED and vitals(running, "one").trips == 1


async def test_one_that_dies_in_its_calls_is_tried_with_one_call_at_a_time(gateway, script):
    settings = BreakerSettings(failures=2, window=30.0, open=1.0)
    async with gateway({"one": script("shaky"), "two": script("shaky")}, breaker=settings) as running:
        before = [name for name in running.names() if name.startswith("two__")]
        for times in (1, 2):
            with pytest.raises(Unavailable, match="exited with status 7"):
                await running.call("one__die")
            assert await echo(running, "two") == "here"
            await reconnected(running, "one", times)
        await half_open(running, "one")
        with pytest.raises(Unavailable, match="exited with status 7"):
            await running.call("one__die")
        assert (vitals(running, "one").breaker, vitals(running, "one").trips) == (BreakerState.OPEN, 2)
        await reconnected(running, "one", 3)
        await half_open(running, "one")
        probe = running.call("one__sleep", b'{"seconds":0.2}')
        tried, refused = await asyncio.gather(probe, echo(running, "one"), return_exceptions=True)
        assert text(tried) == "" and refused.reason == "UPSTREAM_BREAKER_OPEN"
        assert vitals(running, "one").breaker is BreakerState.CLOSED
        assert await echo(running, "one") == "here"
        assert [name for name in running.names() if name.startswith("two__")] == before
        assert (vitals(running, "two").trips, vitals(running, "two").reconnects) == (0, 0)


async def half_open(running, name: str) -> None:
    await asyncio.sleep(max(0.0, vitals(running, name).breaker_retry - time()))  # as it says
    assert vitals(running, name).breaker is BreakerState.HALF_OPEN


async def test_connecting_anew_by_hand_closes_the_breaker(gateway, script):
    async with gateway({"one": script("shaky")}, breaker=BreakerSettings(failures=1, open=600.0)) as running:
        await running.call("one__internal")
        with pytest.raises(Unavailable):
            await echo(running, "one")
        await running.catalog.reconnect("one")
        assert await echo(running, "one") == "here"


async def test_a_flapping_server_does_not_touch_the_others(gateway, script):
    async with gateway({"flap": script("shaky", "flapping"), "one": script("shaky")}) as running:
        calls = 0
        async with asyncio.timeout(20):
            while vitals(running, "flap").restarts < 3:
                assert await echo(running, "one") == "here"
                calls += 1
        assert calls > 100 and vitals(running, "one").restarts == 0
        assert running.status("flap").next_attempt > 0 or running.status("flap").state is not ServerState.UNHEALTHY


async def test_a_server_that_changes_all_the_time_is_listed_now_and_then(gateway, script):
    async with gateway({"flip": script("shaky", "flipping")}) as running:
        start = asyncio.get_running_loop().time()
        before = running.catalog.versions(LOCAL).catalog
        await running.until(lambda: running.catalog.versions(LOCAL).catalog >= before + 4)
        took = asyncio.get_running_loop().time() - start
        assert json.loads(text(await running.call("flip__counts")))["tools/list"] <= 2 + took / 0.5


async def test_a_server_that_only_says_it_changed_is_no_news(gateway, script):
    async with gateway({"one": script("shaky")}) as running:
        version = running.catalog.versions(LOCAL).catalog
        await running.call("one__poke")
        while json.loads(text(await running.call("one__counts")))["tools/list"] < 2:
            pass
        assert running.catalog.versions(LOCAL).catalog == version


async def test_what_a_server_was_configured_with_is_not_in_what_is_said_of_it(gateway, script, caplog):
    caplog.set_level("INFO", "narthex_server")
    entry = script("shaky", "--token=tok-abcdef") | {"env": {"TOKEN": "env-abcdef"}}
    async with gateway({"one": entry}) as running:
        with pytest.raises(Unavailable) as caught:
            await running.call("one__leak")
        reason = running.status("one").reason
        await reconnected(running, "one")
        for said in (caught.value.message, reason, caplog.text):
            assert "cannot log in with *** and ***" in said and "abcdef" not in said
