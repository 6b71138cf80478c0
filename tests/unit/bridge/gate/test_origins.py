"""What browsers are told."""

import pytest
from narthex.keys import new_key

PAGE = "https://app.example"
SENT = (
    "authorization,content-type,mcp-protocol-version,mcp-session-id,mcp-method,mcp-name,mcp-param-region,last-event-id"
    ",idempotency-key,x-narthex-priority"
)


@pytest.fixture
def start(start_bridge, tmp_path):
    (tmp_path / "keys.toml").write_text(new_key("ann")[1].toml)
    return lambda *origins: start_bridge(allowed_origins=origins, api_key_file=tmp_path / "keys.toml")


def preflight(bridge, path, origin=PAGE, method="POST", headers=SENT):
    asked = {"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers}
    return bridge.http.options(path, headers=asked)


async def test_an_allowed_page_may_send_what_mcp_clients_send(start):
    async with start(PAGE) as bridge:
        for path, methods in (
            ("/mcp", "DELETE, GET, OPTIONS, POST"),
            ("/sse", "GET, OPTIONS"),
            ("/messages", "OPTIONS, POST"),
            ("/mcp/stream", "OPTIONS, POST"),
            ("/mcp/list", "GET, OPTIONS"),
            ("/metrics", "GET, OPTIONS"),
        ):
            answer = await preflight(bridge, path)
            assert answer.status_code == 204
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-allow-methods"] == methods
            assert set(answer.headers["access-control-allow-headers"].split(", ")) == set(SENT.split(","))
            assert "access-control-allow-credentials" not in answer.headers
        answer = await preflight(bridge, "/mcp", headers="x-evil, Mcp-Param-Region, cookie, mcp-param-")
        assert answer.headers["access-control-allow-headers"] == "mcp-param-region"


async def test_an_allowed_page_can_read_answers_and_refusals(start):
    async with start(PAGE) as bridge:
        answer = await bridge.rpc("ping", origin=PAGE)
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["vary"] == "origin"
        shown = answer.headers["access-control-expose-headers"].split(", ")
        assert {"mcp-session-id", "mcp-protocol-version", "www-authenticate", "x-ratelimit-remaining"} <= set(shown)
        assert "access-control-allow-origin" not in (await bridge.rpc("ping")).headers


async def test_pages_of_this_machine_are_as_good(start):
    async with start() as bridge:
        answer = await preflight(bridge, "/mcp", origin="http://localhost:3000")
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


async def test_other_pages_are_told_nothing(start):
    async with start(PAGE) as bridge:
        for origin in ("https://evil.example", "null", "https://app.example.evil.example"):
            answer = await preflight(bridge, "/mcp", origin=origin)
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
            answer = await bridge.rpc("ping", origin=origin)
            assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
        assert (await preflight(bridge, "/nowhere")).status_code == 404
        assert (await bridge.http.options("/mcp")).status_code == 405


async def test_all_pages_can_be_allowed_where_a_key_is_needed(start):
    async with start("*") as bridge:
        answer = await preflight(bridge, "/mcp", origin="https://any.example")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
        assert (await bridge.rpc("ping", origin="https://any.example")).status_code == 401
