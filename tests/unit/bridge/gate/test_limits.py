"""Limits on the wire: whom they count, what clients are told, and that Redis may go."""

import asyncio
import shutil
import socket
import time

import pytest
from narthex.keys import new_key
from narthex.rates import UNLIMITED, Rate
from narthex_bridge.config.limits import LimitsConfig
from narthex_bridge.config.redis import RedisUrl
from narthex_bridge.gate.limiters import in_memory
from narthex_bridge.gate.shared import SharedLimiter


@pytest.fixture
def limited(start_bridge):
    """A bridge behind a proxy on this machine, so that requests can come from anywhere."""

    def start(address="off", principal="off", total="off", **changes):
        limits = LimitsConfig(*(Rate.parse(text) for text in (total, address, principal)))
        return start_bridge(limits=limits, trusted_proxies=("127.0.0.1",), **changes)

    return start


async def test_an_address_may_send_so_much_and_then_waits(limited):
    async with limited(address="3/hour") as bridge:
        there = {"x-forwarded-for": "203.0.113.5"}
        for left in (2, 1, 0):
            answer = await bridge.http.get("/mcp/list", headers=there)
            assert answer.status_code == 200
            assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("3", str(left))
            assert 0 < int(answer.headers["x-ratelimit-reset"]) <= 3600
        answer = await bridge.rpc("ping", **there)
        assert answer.status_code == 429
        wait = int(answer.headers["retry-after"])
        assert 1100 < wait <= 1200
        assert answer.headers["x-ratelimit-remaining"] == "0"
        error = answer.json()["error"]
        assert (error["code"], answer.json()["id"]) == (429, None)
        assert error["data"] == {"reason": "ADDRESS_RATE", "retryable": True, "retryAfter": wait}
        assert "3/hour" in error["message"]
        assert (await bridge.http.get("/mcp/list", headers={"x-forwarded-for": "203.0.113.6"})).status_code == 200
        text = (await bridge.http.get("/metrics")).text
        assert 'narthex_bridge_refusals_total{reason="address_rate"} 1.0' in text


async def test_this_machine_is_not_counted(limited):
    async with limited(address="1/day") as bridge:
        for _ in range(5):
            answer = await bridge.http.get("/mcp/list")
            assert answer.status_code == 200 and "x-ratelimit-limit" not in answer.headers


async def test_without_limits_nothing_is_told(limited):
    async with limited() as bridge:
        answer = await bridge.http.get("/mcp/list", headers={"x-forwarded-for": "203.0.113.5"})
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_a_key_has_a_rate_of_its_own_or_that_of_all(limited, tmp_path):
    secrets = {}
    with (tmp_path / "keys.toml").open("w") as file:
        for name, rate in (("few", Rate(1, 86400)), ("plain", None), ("free", UNLIMITED)):
            secrets[name], key = new_key(name, rate=rate)
            file.write(key.toml)
    async with limited(principal="2/day", api_key_file=tmp_path / "keys.toml") as bridge:
        for name, most in (("few", 1), ("plain", 2), ("free", 5)):
            bearer = {"authorization": f"Bearer {secrets[name]}"}
            codes = [(await bridge.http.get("/mcp/list", headers=bearer)).status_code for _ in range(5)]
            assert codes == [200] * most + [429] * (5 - most), name


async def test_all_together_have_a_limit_that_strangers_cannot_use_up(limited, tmp_path):
    secret, key = new_key("ann")
    (tmp_path / "keys.toml").write_text(key.toml)
    async with limited(total="2/day", api_key_file=tmp_path / "keys.toml") as bridge:
        for _ in range(5):
            assert (await bridge.http.get("/mcp/list")).status_code == 401
        bearer = {"authorization": f"Bearer {secret}"}
        codes = [(await bridge.http.get("/mcp/list", headers=bearer)).status_code for _ in range(3)]
        assert codes == [200, 200, 429]


async def test_guesses_of_keys_are_counted_for_their_address(limited, tmp_path):
    (tmp_path / "keys.toml").write_text(new_key("ann")[1].toml)
    async with limited(address="3/day", api_key_file=tmp_path / "keys.toml") as bridge:
        guess = {"authorization": "Bearer nx_guess", "x-forwarded-for": "203.0.113.5"}
        codes = [(await bridge.rpc("ping", **guess)).status_code for _ in range(5)]
        assert codes == [401, 401, 401, 429, 429]


async def test_streams_tell_the_limit_too(limited):
    async with limited(principal="10/minute") as bridge:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}
        answer = await bridge.http.post("/mcp/stream", json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-ratelimit-remaining"] == "9"


async def test_what_was_used_comes_back_evenly():
    limiter, rate = in_memory("test"), Rate(20, 1)
    for left in reversed(range(20)):
        assert (await limiter.take("a", rate)).remaining == left
    refused = await limiter.take("a", rate)
    assert 0 < refused.retry_s <= 1 / 20
    started = time.monotonic()
    while (await limiter.take("a", rate)).retry_s > 0:
        pass
    assert time.monotonic() - started < 0.5


async def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("narthex_bridge.gate.limiters.MOST_HELD", 10)
    limiter = in_memory("test")
    for index in range(100):
        await limiter.take(str(index), Rate(5, 60))
    assert len(limiter._store._backend.get_client()) == 10


async def test_a_redis_that_is_not_there_costs_one_short_wait(caplog):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    limiter = SharedLimiter(f"redis://:a-secret@127.0.0.1:{port}/0", "test")
    left = [(await limiter.take("a", Rate(5, 60))).remaining for _ in range(3)]
    assert left == [4, 3, 2]
    assert caplog.text.count("counted by this bridge alone") == 1 and "a-secret" not in caplog.text
    await limiter.close()


@pytest.mark.system
async def test_bridges_share_their_counts_in_redis(limited, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = shutil.which("redis-server")
    assert command, "redis-server is missing"
    redis = await asyncio.create_subprocess_exec(
        command, "--port", str(port), "--save", "", "--dir", str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        while b"Ready to accept" not in (await asyncio.wait_for(redis.stdout.readline(), 10)):
            pass
        shared = {"principal": "3/day", "redis": RedisUrl.parse(f"redis://127.0.0.1:{port}/0")}
        async with limited(**shared) as one, limited(**shared) as other:
            for bridge, left in ((one, "2"), (other, "1"), (one, "0")):
                assert (await bridge.http.get("/mcp/list")).headers["x-ratelimit-remaining"] == left
            assert (await other.http.get("/mcp/list")).status_code == 429
            redis.terminate()
            await redis.communicate()
            assert (await other.http.get("/mcp/list")).headers["x-ratelimit-remaining"] == "2"
    finally:
        if redis.returncode is None:
            redis.kill()
            await redis.communicate()
