"""API keys on the wire: how they are sent, and what the server is told of theirs."""

import json
from datetime import UTC, datetime

import pytest
from narthex.keys import new_key
from narthex.scopes import ToolScope


@pytest.fixture
def keyed(start_bridge, tmp_path):
    """A bridge that takes these keys."""

    def start(*keys):
        (tmp_path / "keys.toml").write_text("\n".join(key.toml for key in keys))
        return start_bridge(api_key_file=tmp_path / "keys.toml")

    return start


async def test_the_server_hears_of_a_keys_tools_whatever_it_thinks_of_the_bridge(keyed, tools):
    limited, limited_key = new_key("limited", tools=ToolScope(("time__*",)))
    plain, plain_key = new_key("plain")
    async with keyed(limited_key, plain_key) as bridge:
        for secret, said in (
            (limited, {"name": "limited", "tenant": "default", "tools": ["time__*"]}),
            (plain, None),  # a bridge without a credential of its own has nothing to say about who calls
        ):
            session = await bridge.session(authorization=f"Bearer {secret}")
            for method, params in (("tools/list", {}), ("tools/call", {"name": "echo"})):
                await bridge.rpc(method, params, **session)
                told = tools.metadata[-1].get("x-narthex-principal")
                assert (json.loads(told) if told else None) == said
                assert "authorization" not in tools.metadata[-1]


async def test_lists_are_kept_for_each_scope_apart(keyed, tools):
    one, one_key = new_key("one", tools=ToolScope(("a*",)))
    other, other_key = new_key("other", tools=ToolScope(("b*",)))
    async with keyed(one_key, other_key) as bridge:
        for secret in (one, other):
            await bridge.rpc("tools/list", **await bridge.session(authorization=f"Bearer {secret}"))
        assert tools.listed == 2


async def test_a_key_may_come_in_the_header_of_anthropics_clients(keyed):
    secret, key = new_key("ann")
    async with keyed(key) as bridge:
        assert await bridge.session(**{"x-api-key": secret})
        for headers in (
            {"x-api-key": "nx_wrong"},
            {"x-api-key": secret, "authorization": "Bearer nx_wrong"},
            {"x-api-key": ""},
        ):
            assert (await bridge.rpc("ping", **headers)).status_code == 401
        assert (await bridge.rpc("ping", authorization=f"Basic {secret}")).status_code == 401
        assert (await bridge.http.post(f"/mcp?api_key={secret}", json={})).status_code == 401


async def test_the_holder_of_a_key_that_has_expired_is_told(keyed):
    secret, key = new_key("ann", expires=datetime(2020, 1, 1, tzinfo=UTC))
    async with keyed(key) as bridge:
        answer = await bridge.rpc("ping", authorization=f"Bearer {secret}")
        assert answer.status_code == 401 and "has expired" in answer.text
        assert "has expired" in answer.headers["www-authenticate"]
        answer = await bridge.rpc("ping", authorization="Bearer nx_another")
        assert answer.status_code == 401 and "not known" in answer.text


async def test_metrics_are_for_those_who_may_call_and_health_is_for_all(keyed):
    secret, key = new_key("ann")
    async with keyed(key) as bridge:
        assert (await bridge.http.get("/metrics")).status_code == 401
        answer = await bridge.http.get("/metrics", headers={"authorization": f"Bearer {secret}"})
        assert 'narthex_bridge_refusals_total{reason="credential"} 1.0' in answer.text
        for path in ("/healthz", "/readyz"):
            assert (await bridge.http.get(path)).status_code == 200
