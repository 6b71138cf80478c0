"""The status page in a real browser."""

import asyncio
import json
import os
from pathlib import Path

import grpc
import httpx
import pytest
from narthex.keys import new_key
from narthex.v1 import generation_pb2_grpc, lot_pb2, model_pb2, model_pb2_grpc, tool_pb2_grpc, upstream_pb2

from tests.e2e.ui.browser import PATIENCE_S
from tests.e2e.ui.examples import busy
from tests.unit.bridge.faces.conftest import ModelServer, Said

pytestmark = pytest.mark.system

CHAT = model_pb2.Model(
    name="demo", state=model_pb2.MODEL_STATE_READY, capabilities=[model_pb2.CAPABILITY_CHAT], max_slots=8
)
PARKED = {"model": "demo", "input": "Tell me a story.", "background": True, "ignore_eos": True}
LONG = {"model": "demo", "messages": [{"role": "user", "content": "Hello! Who are you?"}], "max_tokens": 400}


async def test_it_shows_what_there_is_without_errors_or_requests_elsewhere(browser, demo):
    await browser.open(f"{demo}/ui")
    await browser.shows("#connection", "live")
    await browser.shows("#models-table", "ready")
    await browser.shows("#upstreams-table tbody", "ready")
    assert "demo" in await browser.text("#models-table") and "time" in await browser.text("#upstreams-table")
    assert browser.errors == []
    assert all(url.startswith(f"{demo}/ui") for url in browser.requests), browser.requests


async def test_numbers_move_while_work_runs(browser, demo):
    await browser.open(f"{demo}/ui")
    await browser.shows("#bridge-table", "0 / 1,000")
    working = asyncio.Event()

    async def work(http: httpx.AsyncClient) -> None:
        while not working.is_set():
            (await http.post("/v1/chat/completions", json=LONG)).raise_for_status()

    async with httpx.AsyncClient(base_url=demo, timeout=PATIENCE_S) as http:
        work = [asyncio.create_task(work(http)) for _ in range(4)]
        await browser.until("/^[1-9]/.test(document.querySelector('#bridge-table tr:nth-child(3) td').innerText)")
        for table, taken in (("models", "[1-9]\\d* / \\d+"), ("pools", "[1-9]\\d* / \\d+ slots")):
            await browser.until(_matches(f"#{table}-table", taken))
        parked = (await http.post("/v1/responses", json=PARKED)).json()["id"]
        await browser.until(_matches("#tickets-table", f"{parked.removeprefix('resp_')}\\s+running"))
        await browser.shows("#tickets-sum", "1 open")
        await http.post(f"/v1/responses/{parked}/cancel")
        await browser.shows("#tickets-table", "cancelled")
        await browser.shows("#tickets-sum", "0 open")
        working.set()
        await asyncio.gather(*work)
    await browser.until("/^0 /.test(document.querySelector('#bridge-table tr:nth-child(3) td').innerText)")
    for table, free in (("models", "\\b0 / \\d+"), ("pools", "\\b0 / \\d+ slots")):
        await browser.until(_matches(f"#{table}-table", free))


def _matches(selector, pattern):
    """Whether an element's text does, as an expression in the page."""
    return f"new RegExp({json.dumps(pattern)}).test(document.querySelector({json.dumps(selector)})?.innerText)"


async def test_a_conversation_by_the_keyboard_alone(browser, demo):
    await browser.open(f"{demo}/ui")
    await browser.shows("#chat", "demo")
    await browser.press("Tab")
    assert await browser.run("document.activeElement.className") == "skip"
    await browser.press("Enter")
    assert await browser.run("document.activeElement.id") == "main"
    for id in ("chat-new", "chat-model", "chat-log", "chat-text"):
        await browser.tab_to(id)
        assert await browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for turn, words in enumerate(("Hello, who are you?", "What is 17 times 3?")):
        await browser.type(words)
        await browser.press("Enter")
        await browser.until(f"document.querySelectorAll('.turn').length === {2 * turn + 2}")
        await browser.shows(".turn:last-child", "tokens in")
        assert len(await browser.text(".turn:last-child > .said")) > 10
        assert await browser.run("document.activeElement.id") == "chat-text"
    await browser.shows("#announcer", "tokens in")
    await browser.press("Tab")
    assert await browser.run("document.activeElement.id") == "chat-send"
    await browser.press("Tab", shift=True)
    assert await browser.run("document.activeElement.id") == "chat-text"
    assert browser.errors == []


async def test_stop_ends_the_work_and_the_conversation_goes_on(browser, bridged):
    class Server(ModelServer):
        async def ListModels(self, request, context):
            return model_pb2.ListModelsResponse(models=[CHAT])

    server, models = grpc.aio.server(), Server(events=[Said.started(), Said.text("Once upon a time")], holds=True)
    for add in (
        generation_pb2_grpc.add_GenerationServiceServicer_to_server,
        model_pb2_grpc.add_ModelServiceServicer_to_server,
        tool_pb2_grpc.add_ToolServiceServicer_to_server,
    ):
        add(models, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with bridged(f"127.0.0.1:{port}") as url:
        await browser.open(f"{url}/ui")
        await browser.shows("#chat", "demo")
        await browser.run("document.getElementById('chat-text').focus()")
        await browser.type("Tell me a story.")
        await browser.press("Enter")
        await browser.shows(".turn:last-child", "Once upon a time")
        await browser.tab_to("chat-stop")
        await browser.press("Enter")
        await asyncio.wait_for(models.cancelled.wait(), PATIENCE_S)
        await browser.shows(".turn:last-child", "Stopped.")
        assert await browser.run("document.activeElement.id") == "chat-text"
        models.holds, models.events = False, [Said.started(), Said.text("The end."), Said.finished()]
        await browser.type("And then?")
        await browser.press("Enter")
        await browser.shows(".turn:last-child", "The end.")
        said = [(message.role, message.content[0].text) for message in models.asked[-1].spec.messages]
    assert [text for _, text in said] == ["Tell me a story.", "Once upon a time", "And then?"]
    await server.stop(0)


async def test_a_key_opens_it_stays_in_the_tab_and_is_forgotten(browser, bridged, lot, tmp_path):
    secret, key = new_key("ann", "t1")
    (tmp_path / "keys.toml").write_text(key.toml)
    async with bridged(lot.address, "--api-key-file", tmp_path / "keys.toml") as url:
        await browser.open(f"{url}/ui")
        await browser.shows("#login", "asks for a key")
        await browser.until("document.activeElement.id === 'key'")
        assert not await browser.run("document.getElementById('shown').checkVisibility()")
        await browser.type("wrong")
        await browser.press("Enter")
        await browser.shows("#notice", "not known")
        await browser.type(secret)
        await browser.press("Enter")
        await browser.shows("#caller", "ann of t1")
        assert not await browser.run("document.getElementById('login').checkVisibility()")
        kept = "JSON.stringify([localStorage, document.cookie, location.href, document.documentElement.innerHTML])"
        assert secret not in await browser.run(kept)
        await browser.command("Page.reload")
        await browser.shows("#caller", "ann of t1")
        await browser.tab_to("forget")
        await browser.press("Enter")
        await browser.shows("#login", "asks for a key")
        assert await browser.run("sessionStorage.length") == 0
        assert secret not in "".join(browser.requests)


async def test_what_servers_say_is_text(browser, bridged, lot):
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    lot.models = [model_pb2.Model(name=hostile, state=model_pb2.MODEL_STATE_FAILED, failure=hostile)]
    lot.upstreams = [upstream_pb2.Upstream(name=hostile, failure=hostile, server_name=hostile)]
    lot.locks = [lot_pb2.LockReading(name=hostile)]
    async with bridged(lot.address) as url:
        await browser.open(f"{url}/ui")
        await browser.shows("#upstreams-table", hostile)
        assert hostile in await browser.text("#models-table") and hostile in await browser.text("#locks-table")
        assert await browser.run("document.title") == "narthex"
        assert await browser.run("document.querySelectorAll('main img, main script').length") == 0
        with pytest.raises(Exception, match="TrustedHTML"):
            await browser.run("document.body.innerHTML = 'x'")


async def test_changes_are_announced_and_numbers_are_not(browser, bridged, lot):
    busy(lot)
    async with bridged(lot.address) as url:
        await browser.open(f"{url}/ui")
        await browser.shows("#upstreams-table", "ready")
        lot.occupancy.models[0].running = 1
        lot.upstreams[0].state = upstream_pb2.UPSTREAM_STATE_UNHEALTHY
        await browser.shows("#announcer", "Upstream time is unhealthy.")
        assert await browser.text("#announcer") == "Upstream time is unhealthy."
        assert await browser.run("document.querySelectorAll('[aria-live=polite], [role=alert]').length") == 2


async def test_a_lost_bridge_is_said_and_found_again(browser, bridged, lot):
    busy(lot)
    async with bridged(lot.address) as url:
        await browser.open(f"{url}/ui")
        await browser.shows("#connection", "live")
    await browser.shows("#connection", "connection lost")
    async with bridged(lot.address, "--http", url.removeprefix("http://")):
        await browser.shows("#connection", "live")


async def test_numbers_read_well(browser, bridged, lot):
    written = {
        "duration(0)": "0 s", "duration(4.1e-7)": "410 ns", "duration(8.4e-6)": "8.4 µs", "duration(0.84)": "840 ms",
        "duration(59.9)": "60 s", "duration(61)": "1 min 1 s", "duration(7322)": "2 h 2 min",
        "duration(90000)": "1 d 1 h", "ago(2)": "just now", "ago(14)": "10 s ago", "lapse(3700)": "1 h",
        "bytes(0)": "0 B", "bytes(2048)": "2.0 KB", "bytes(268435456)": "256 MB", "count(99999)": "99,999",
        "count(184211)": "184.2K", "percent(0)": "0 %", "percent(0.001)": "<1 %", "percent(1)": "100 %",
    }  # fmt: skip
    async with bridged(lot.address) as url:
        await browser.open(f"{url}/ui")
        made = (
            f"import('/ui/format.js').then(({{duration, ago, lapse, bytes, count, percent}}) => [{','.join(written)}])"
        )
        assert dict(zip(written, await browser.run(made), strict=True)) == written


async def test_events_are_read_however_they_are_cut(browser, bridged, lot):
    text = ': keepalive\n\nevent: status\ndata: {"a": "ä"}\n\ndata: one\ndata: two\n\ndata: cut off'
    read = """(whole, size) => import('/ui/events.js').then(async ({events}) => {
        const body = new ReadableStream({ start(to) {
            for (let at = 0; at < whole.length; at += size) to.enqueue(whole.slice(at, at + size));
            to.close();
        } });
        const found = [];
        for await (const data of events(new Response(body))) found.push(data);
        return found;
    })"""
    async with bridged(lot.address) as url:
        await browser.open(f"{url}/ui")
        for size in (1, 2, 7, 1000):
            found = await browser.run(f"({read})(new TextEncoder().encode({json.dumps(text)}), {size})")
            assert found == ['{"a": "ä"}', "one\ntwo"]


@pytest.mark.parametrize(
    ("width", "scheme"), [(1440, "light"), (1440, "dark"), (320, "light"), (320, "dark")], ids=lambda value: str(value)
)
async def test_it_is_accessible_and_fits(browser, bridged, lot, width, scheme):
    busy(lot)
    async with bridged(lot.address) as url:
        await browser.resize(width, 900)
        await browser.prefer(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
        await browser.open(f"{url}/ui")
        await browser.shows("#locks-table", "kv_cache")
        await browser.until("document.querySelector('#chat-model').value === 'demo'")
        assert await browser.run("document.documentElement.scrollWidth") <= width
        assert await _violations(browser) == []
        assert await browser.run("document.getAnimations().length") == 0
        assert browser.errors == []


async def test_the_form_for_a_key_is_accessible(browser, bridged, lot, tmp_path):
    (tmp_path / "keys.toml").write_text(new_key("ann", "t1")[1].toml)
    async with bridged(lot.address, "--api-key-file", tmp_path / "keys.toml") as url:
        await browser.resize(320, 600)
        await browser.open(f"{url}/ui")
        await browser.shows("#login", "asks for a key")
        assert await browser.run("document.documentElement.scrollWidth") <= 320
        assert await _violations(browser) == []


async def _violations(browser):
    """What axe finds, by its rules for WCAG 2.2 AA and for good practice."""
    axe = Path(os.environ.get("NARTHEX_NODE_MODULES") or "node_modules") / "axe-core" / "axe.min.js"
    assert axe.is_file(), f"{axe} is missing: run `npm install` first (.ci/run does)"
    await browser.run(f"{axe.read_text('utf-8')}; null")
    found = await browser.run("axe.run().then((found) => JSON.stringify(found.violations))")
    return [(rule["id"], node["html"], node["failureSummary"]) for rule in json.loads(found) for node in rule["nodes"]]
