"""The bridge as a resource server of OAuth 2.1, on the wire."""

import asyncio
import hashlib
import hmac
import json
import socket
import time
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from narthex.keys import append_key, new_key
from narthex.settings import Address

WELL_KNOWN = "/.well-known/oauth-protected-resource"


@pytest.fixture
async def bridge(protected):
    async with protected() as started:
        yield started


def bearer(token):
    return {"authorization": f"Bearer {token}"}


async def test_metadata_say_where_tokens_come_from(bridge, authority, resource):
    for path in (WELL_KNOWN, f"{WELL_KNOWN}/mcp"):
        answer = await bridge.http.get(path)
        assert answer.status_code == 200
        assert answer.json() == {
            "resource": resource,
            "authorization_servers": [authority.url],
            "bearer_methods_supported": ["header"],
            "resource_name": "narthex",
            "scopes_supported": ["mcp"],
        }


async def test_without_oauth_there_are_no_metadata(start_bridge):
    async with start_bridge() as bridge:
        assert (await bridge.http.get(WELL_KNOWN)).status_code == 404


@pytest.mark.parametrize("path", ["/mcp", "/mcp/stream", "/messages"])
async def test_who_shows_nothing_is_told_what_is_needed(bridge, path):
    answer = await bridge.http.post(path, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert answer.status_code == 401
    told = answer.headers["www-authenticate"]
    assert told == (f'Bearer realm="narthex", resource_metadata="https://tools.example{WELL_KNOWN}/mcp", scope="mcp"')
    assert answer.json()["error"]["code"] == 401


async def test_a_good_token_speaks_for_its_subject_and_goes_no_further(bridge, tools, token, authority):
    given = token()
    session = await bridge.session(**bearer(given))
    answer = await bridge.rpc("tools/call", {"name": "echo", "arguments": {"text": "hi"}}, **session)
    assert answer.json()["result"]["content"][0]["text"] == "hi"
    assert given not in str(tools.metadata)
    assert authority.asked == ["/.well-known/oauth-authorization-server", "/keys"]


async def test_the_server_is_told_subject_tenant_and_tools(protected, tools, token, authority, monkeypatch):
    monkeypatch.setenv("NARTHEX_DELEGATE_TOKEN", "of the bridge")
    async with protected(tenant_claim="org", tool_scope_prefix="tools:") as bridge:
        session = await bridge.session(**bearer(token(org="blue", scope="mcp tools:time__* tools:echo")))
        await bridge.rpc("tools/list", **session)
        assert json.loads(tools.metadata[-1]["x-narthex-principal"]) == {
            "name": f"{authority.url} ann",
            "tenant": "blue",
            "tools": ["echo", "time__*"],
        }
        for scope, globs in (("mcp", []), ("mcp tools:*", None)):
            session = await bridge.session(**bearer(token(org="blue", scope=scope)))
            await bridge.rpc("tools/list", **session)
            assert json.loads(tools.metadata[-1]["x-narthex-principal"]).get("tools") == globs
        answer = await bridge.rpc("ping", **bearer(token()))
        assert answer.status_code == 401 and "tenant" in answer.text


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_tokens_of_every_common_kind_of_key_are_taken(bridge, authority, token, algorithm):
    authority.add_key("other", algorithm)
    assert await bridge.session(**bearer(token(kid="other")))


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"typ": None}, {"typ": "application/at+jwt"}])
async def test_common_types_are_taken(bridge, token, header):
    assert await bridge.session(**bearer(token(header=header)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "lacks the claim exp"),
        ({"exp": "soon"}, "not valid"),
        ({"nbf": 2**33}, "not valid yet"),
        ({"aud": "https://elsewhere.example/mcp"}, "another audience"),
        ({"aud": None}, "lacks the claim aud"),
        ({"iss": "https://elsewhere.example"}, "issuer is not trusted"),
        ({"iss": None}, "issuer is not trusted"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "name its subject"),
        ({"sub": "x" * 256}, "name its subject"),
        ({"sub": "ann\nINFO all is well"}, "name its subject"),
        ({"cnf": {"jkt": "x"}}, "bound to its sender"),
        ({"header": {"typ": "dpop+jwt"}}, "another type"),
        ({"header": {"typ": "id+jwt"}}, "another type"),
        ({"header": {"kid": "two"}}, "does not have"),
        ({"header": {"crit": ["b64"], "b64": False}}, "not a JSON Web Token"),
    ],
)
async def test_a_token_that_is_not_good_is_refused_and_told_why(bridge, token, changes, told):
    given = token(**changes)
    answer = await bridge.rpc("ping", **bearer(given))
    assert answer.status_code == 401, answer.text
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert told in answer.headers["www-authenticate"] and told in answer.text
    assert given not in answer.text and given not in str(answer.headers)


async def test_forged_tokens_are_refused(bridge, authority, token, forge):
    claims = jwt.decode(token(), options={"verify_signature": False})
    public = authority.keys["one"][1].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = {"typ": "at+jwt", "kid": "one"}
    monster = forge({**header, "alg": "ES256"}, claims).split(".")
    deep = forge({**header, "alg": "ES256"}, {}).split(".")
    signed = token().split(".")
    other = jwt.encode(claims, "0" * 32, "HS256", headers=header)
    start = forge({**header, "alg": "HS256"}, claims).rpartition(".")[0]
    confused = hmac.new(pem, start.encode(), hashlib.sha256).digest()
    for forged in (
        forge({**header, "alg": "none"}, claims),
        forge({**header, "alg": "nOnE"}, claims),
        forge({"typ": "at+jwt", "alg": "none"}, claims),
        forge({**header, "alg": "HS256"}, claims, confused),
        forge({**header, "alg": "RS256"}, claims, b"x" * 256),
        forge({**header, "alg": "ES256"}, claims, b"\0" * 64),
        forge({**header, "kid": ["one"], "alg": "ES256"}, claims, b"\0" * 64),
        forge({**header, "alg": ["ES256"]}, claims, b"\0" * 64),
        forge({**header, "alg": "ES256"}, {**claims, "exp": 1e308}, b"\0" * 64),
        forge({**header, "alg": "ES256"}, {**claims, "iss": ["x"]}, b"\0" * 64),
        other,
        ".".join(monster),
        f"{deep[0]}.{'W1tb' * 3000}.",
        f"{signed[0]}.{signed[1]}.{signed[2][:-4]}AAAA",
        f"{signed[0]}.{monster[1]}x.{signed[2]}",
        "..",
        "a.b.c",
        "\xff.\xff.\xff",
    ):
        answer = await bridge.http.post(
            "/mcp", json={}, headers=[(b"authorization", f"Bearer {forged}".encode("latin-1"))]
        )
        assert answer.status_code == 401, forged[:100]


async def test_a_key_that_came_with_the_token_is_not_used(bridge, authority, token):
    genuine = authority.keys["one"]
    authority.add_key("mine")
    authority.keys = {"one": ("ES256", authority.keys["mine"][1])}
    forged = token(header={"jwk": authority.jwk("one"), "jku": f"{authority.url}/keys"})
    authority.keys = {"one": genuine}
    assert (await bridge.rpc("ping", **bearer(forged))).status_code == 401


async def test_a_token_without_the_scope_is_forbidden_and_told_which(bridge, token):
    for given in (token(scope="other"), token(scope=None), token(scope=7)):
        answer = await bridge.rpc("ping", **bearer(given))
        assert answer.status_code == 403
        told = answer.headers["www-authenticate"]
        assert 'error="insufficient_scope"' in told and 'scope="mcp"' in told and "resource_metadata=" in told
    assert await bridge.session(**bearer(token(scope=None, scp=["mcp"])))


async def test_a_token_in_the_url_counts_for_nothing(bridge, token):
    for name in ("access_token", "token", "api_key", "key"):
        answer = await bridge.http.post(f"/mcp?{name}={token()}", json={})
        assert answer.status_code == 401
        assert "invalid_token" not in answer.headers["www-authenticate"]


async def test_new_keys_are_fetched_when_they_are_first_seen(protected, authority, token):
    async with protected(jwks_pause_s=0) as bridge:
        assert await bridge.session(**bearer(token()))
        authority.add_key("two")
        del authority.keys["one"]
        assert await bridge.session(**bearer(token(kid="two")))
        assert authority.asked.count("/keys") == 2


async def test_unknown_keys_are_asked_for_once_in_a_while_alone(bridge, authority, token):
    await bridge.session(**bearer(token()))
    authority.add_key("two")
    tokens = [token(kid="two", jti=str(index)) for index in range(20)]
    answers = await asyncio.gather(*(bridge.rpc("ping", **bearer(given)) for given in tokens))
    assert {answer.status_code for answer in answers} == {401}
    assert authority.asked.count("/keys") == 1


async def test_many_first_tokens_share_one_fetch(bridge, authority, token):
    answers = await asyncio.gather(*(bridge.rpc("ping", **bearer(token(jti=str(i)))) for i in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert authority.asked.count("/keys") == 1


async def test_an_issuer_that_is_down_is_not_the_clients_fault(bridge, authority, token):
    authority.down = True
    answer = await bridge.rpc("ping", **bearer(token()))
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5" and "www-authenticate" not in answer.headers
    assert answer.json()["error"]["data"]["reason"] == "ISSUER_UNREACHABLE"


async def test_keys_that_were_fetched_outlive_their_issuer(protected, authority, token):
    async with protected(jwks_lifetime_s=1e-9, jwks_pause_s=0) as bridge:
        assert await bridge.session(**bearer(token()))
        authority.down = True
        assert await bridge.session(**bearer(token(jti="new")))
        authority.add_key("two")
        assert (await bridge.rpc("ping", **bearer(token(kid="two")))).status_code == 503


async def test_a_slow_issuer_keeps_nobody_else_waiting(protected, authority, token):
    authority.released.clear()
    async with protected(timeout_s=8.0) as bridge:
        waiting = asyncio.create_task(bridge.rpc("ping", **bearer(token())))
        while not authority.asked:
            assert (await bridge.http.get("/healthz")).status_code == 200
        assert not waiting.done()
        authority.released.set()
        assert (await waiting).status_code == 200


@pytest.mark.parametrize(
    ("suffix", "where"),
    [
        ("", "/.well-known/openid-configuration"),
        ("/realm", "/.well-known/oauth-authorization-server/realm"),
        ("/realm", "/.well-known/openid-configuration/realm"),
        ("/realm", "/realm/.well-known/openid-configuration"),
    ],
)
async def test_metadata_are_found_where_they_may_be(protected, authority, token, suffix, where):
    authority.metadata_path, authority.claimed_issuer = where, authority.url + suffix
    async with protected(issuers=(authority.url + suffix,)) as bridge:
        assert await bridge.session(**bearer(token(iss=authority.url + suffix)))


async def test_metadata_of_another_issuer_are_not_believed(bridge, authority, token):
    authority.claimed_issuer = "https://elsewhere.example"
    assert (await bridge.rpc("ping", **bearer(token()))).status_code == 503
    assert "/keys" not in authority.asked


async def test_keys_can_be_named_without_metadata(protected, authority, token):
    async with protected(jwks_url=f"{authority.url}/keys") as bridge:
        assert await bridge.session(**bearer(token()))
    assert authority.asked == ["/keys"]


async def test_a_session_is_its_subjects_whatever_the_token(protected, authority, token):
    async with protected(tool_scope_prefix="tools:") as bridge:
        first = await bridge.session(**bearer(token(scope="mcp tools:*", jti="1")))
        listed = {"scope": "mcp tools:*"}
        for same in (token(**listed, jti="2"), token(**listed, iat=int(time.time()) - 5, client_id="other")):
            assert (await bridge.rpc("ping", **{**first, **bearer(same)})).json()["result"] == {}
        # Another subject, and the same one with fewer tools: neither may go on with what the session may do.
        for other in (token(**listed, sub="bob"), token(scope="mcp tools:echo")):
            assert (await bridge.rpc("ping", **{**first, **bearer(other)})).status_code == 404
            assert (await bridge.http.delete("/mcp", headers={**first, **bearer(other)})).status_code == 404


async def test_a_key_and_a_subject_of_one_name_are_two_callers(protected, token, tmp_path):
    secret, key = new_key("ann")
    append_key(tmp_path / "keys.toml", key)
    async with protected({"api_key_file": tmp_path / "keys.toml"}) as bridge:
        of_key = await bridge.session(**bearer(secret))
        of_token = await bridge.session(**bearer(token()))
        assert (await bridge.rpc("ping", **{**of_key, **bearer(token())})).status_code == 404
        assert (await bridge.rpc("ping", **{**of_token, **bearer(secret)})).status_code == 404
        answer = await bridge.rpc("ping", **bearer("nx_unknown"))
        assert answer.status_code == 401 and "API key" in answer.text and "token" in answer.text


class Storage:
    """What a client remembers of its tokens."""

    def __init__(self):
        self.tokens = self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def test_the_official_client_finds_its_way(protected, authority, tools):
    with socket.create_server(("127.0.0.1", 0)) as free:  # the resource's URL has to be known before the bridge listens
        address = Address(*free.getsockname())
    resource, visited = f"http://{address}/mcp", []

    async def visit(url):
        visited.append(parse_qs(urlsplit(url).query))

    async def come_back():
        return AuthorizationCodeResult(code="a-code", state=visited[-1]["state"][0])

    flow = OAuthClientProvider(
        server_url=resource,
        client_metadata=OAuthClientMetadata(redirect_uris=["http://127.0.0.1:1/callback"]),
        storage=Storage(),
        redirect_handler=visit,
        callback_handler=come_back,
    )
    async with (
        protected({"http": address}, resource=resource),
        httpx2.AsyncClient(auth=flow) as http,
        Client(streamable_http_client(resource, http_client=http)) as client,
    ):
        listed = await client.list_tools()
        assert [tool.name for tool in listed.tools] == tools.names
    assert visited[0]["resource"] == [resource] and visited[0]["scope"] == ["mcp"]
    assert authority.forms[0]["resource"] == resource
