"""Whose a thing is: keys, tokens, sessions, states and cursors in the hands of others; and what logs say of them."""

import asyncio
import base64
import hmac
import json
import socket
import threading
import time

import pytest
from cryptography.hazmat.primitives import serialization
from narthex.keys import new_key
from narthex.rates import Rate

TOOL = "time__get_current_time"
NOW = {"name": TOOL, "arguments": {"timezone": "UTC"}}
ASKS = {"name": "fixture__test_input_required_result_elicitation", "arguments": {}}
WAIT = {"name": "fixture__test_wait", "arguments": {}, "_meta": {"progressToken": 1}}
STATELESS, META = "2026-07-28", "io.modelcontextprotocol/"
RESOURCE = "https://tools.example/mcp"


def bearer(secret):
    return f"Authorization: Bearer {secret}"


def meta(**capabilities):
    return {f"{META}protocolVersion": STATELESS, f"{META}clientCapabilities": capabilities}


def mirrored(method, name):
    return (f"Mcp-Protocol-Version: {STATELESS}", f"Mcp-Method: {method}", f"Mcp-Name: {name}")


async def test_a_session_is_its_openers_alone(keyed, connect, rpc):
    bridge, keys = keyed
    ann, bob = await connect(bridge), await connect(bridge)
    session = await ann.session(bearer(keys["ann"]))
    stolen = (f"Mcp-Session-Id: {session.id}", bearer(keys["bob"]))
    listening = await connect(bridge)
    listening.send(listening.request("GET", "/mcp", b"", *session.lines, accept="text/event-stream"))
    assert (await listening.head())[0] == 200
    for method, lines in (("GET", stolen), ("DELETE", stolen), ("GET", stolen[:1]), ("DELETE", stolen[:1])):
        answer = await bob.get("/mcp", *lines, method=method)
        assert answer.status == (404 if len(lines) == 2 else 401)
    assert (await bob.post(rpc("tools/call", NOW), *stolen)).status == 404
    answers = await asyncio.gather(*(ann.post(rpc("ping"), *session.lines) for _ in range(1)))
    assert answers[0].json["result"] == {}
    busy = await connect(bridge)
    busy.send(busy.request("POST", "/mcp", json.dumps(rpc("tools/call", WAIT, 9)).encode(), *session.lines))
    event = await busy_event(busy)
    place = next(line[4:] for line in event.decode().splitlines() if line.startswith("id: "))
    stop = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}
    assert (await bob.post(stop, *stolen)).status == 404
    own = await bob.session(bearer(keys["bob"]))
    assert (await bob.get("/mcp", *own.lines, f"Last-Event-ID: {place}")).status == 400
    assert (await bob.get("/mcp", *stolen, f"Last-Event-ID: {place}")).status == 404
    for number in ("0", "999999999"):
        tampered = f"{place.rpartition('-')[0]}-{number}"
        answer = await bob.get("/mcp", *own.lines, f"Last-Event-ID: {tampered}")
        assert answer.status == 400
    assert (await ann.post(stop, *session.lines)).status == 202
    assert b"-32800" in await busy.event()


async def busy_event(wire):
    await wire.head()
    return await wire.event()


async def test_an_old_transports_session_is_its_openers_too(keyed, connect, rpc):
    bridge, keys = keyed
    ann, bob = await connect(bridge), await connect(bridge)
    ann.send(ann.request("GET", "/sse", b"", bearer(keys["ann"]), accept="text/event-stream"))
    await ann.head()
    path = (await anext(ann.chunks())).decode().partition("data: ")[2].strip()
    for lines, status in (((bearer(keys["bob"]),), 404), ((), 401), ((bearer(keys["ann"]),), 202)):
        assert (await bob.post(rpc("ping"), *lines, path=path)).status == status
    assert b'"result":{}' in await ann.event()


async def test_states_and_cursors_are_for_one_caller_and_one_request(keyed, connect, rpc):
    bridge, keys = keyed
    ann, bob = await connect(bridge), await connect(bridge)
    lines = mirrored("tools/call", ASKS["name"])
    answered = {"user_name": {"action": "accept", "content": {"name": "Ann"}}}
    able = {"_meta": meta(elicitation={})}
    wanted = (await ann.post(rpc("tools/call", ASKS | able), *lines, bearer(keys["ann"]))).json["result"]
    state = wanted["requestState"]
    flipped = state[:-6] + ("A" if state[-6] != "A" else "B") + state[-5:]
    raw = base64.urlsafe_b64decode(state + "=" * (-len(state) % 4))
    later = base64.urlsafe_b64encode(raw[:16] + b"\x7f" + raw[17:]).decode().rstrip("=")
    again = ASKS | able | {"inputResponses": answered}
    for who, given in (
        ("bob", state),
        ("ann", flipped),
        ("ann", later),
        ("ann", ""),
        ("ann", "é"),
        ("ann", "A" * 100_000),
    ):
        answer = await ann.post(rpc("tools/call", again | {"requestState": given}), *lines, bearer(keys[who]))
        assert answer.code == -32602, (who, given[:20], answer)
    other = again | {"arguments": {"a": 1}, "requestState": state}
    assert (await bob.post(rpc("tools/call", other), *lines, bearer(keys["ann"]))).code == -32602
    done = await ann.post(rpc("tools/call", again | {"requestState": state}), *lines, bearer(keys["ann"]))
    assert "Hello, Ann!" in done.json["result"]["content"][0]["text"]


async def test_a_key_counts_wherever_it_stands_but_not_in_a_url(keyed, connect, rpc):
    bridge, keys = keyed
    wire = await connect(bridge)
    key = keys["ann"]
    for line in (bearer(key), f"authorization:  bearer   {key}", f"x-api-key: {key}"):
        assert (await wire.get("/mcp/list", line)).status == 200
    for lines in (
        (), (f"Authorization: Basic {key}",), (f"Authorization: {key}",), (bearer(key[:-1]),), (bearer(key + "x"),),
        (bearer(key), bearer(keys["bob"])), (bearer(key.swapcase()),), (bearer(""),), (bearer("é" * 100),),
        (f"Cookie: authorization=Bearer {key}",), (f"X-Forwarded-Authorization: Bearer {key}",), (bearer(f'{key}"'),),
        ("Authorization: Bearer what bridge and server share",),
    ):  # fmt: skip
        answer = await wire.get("/mcp/list", *lines)
        assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Bearer"), lines
    for query in (f"api_key={key}", f"access_token={key}", f"token={key}", f"authorization=Bearer%20{key}"):
        assert (await wire.get(f"/mcp/list?{query}")).status == 401
    for path in ("/metrics", "/v1/models", "/mcp", "/sse", "/v1/models/demo", "/mcp/list"):
        assert (await wire.get(path)).status == 401
    assert key not in bridge.log.read_text()


async def test_headers_from_outside_say_nothing_to_the_server(keyed, bridge, server, connect, rpc):
    locked, keys = keyed
    wire, anyone = await connect(locked), await connect(bridge)
    claims = (
        'x-narthex-principal: {"name":"root","tenant":"t9","tools":[]}', "grpc-timeout: 1n", "x-narthex-foo-bin: !!",
        "grpc-encoding: gzip", "te: trailers", "x-forwarded-for: 10.0.0.1", "x-original-url: /metrics",
    )  # fmt: skip
    body = rpc("tools/call", NOW)
    for line in claims:
        for one, lines in ((wire, (bearer(keys["narrow"]),)), (anyone, ())):
            answer = await one.post(body, line, f"x-request-id: claimed-{len(lines)}", *lines, path="/mcp/stream")
            assert b"UTC" in answer.body, line
    answer = await wire.post(rpc("tools/call", WAIT), claims[0], bearer(keys["narrow"]), path="/mcp/stream")
    assert b"TOOL_NOT_FOUND" in answer.body
    callers = {line.rpartition("caller=")[2] for line in server.log.read_text().splitlines() if "=claimed-" in line}
    assert callers == {"narrow", "local"}


@pytest.fixture
async def limited(server, tmp_path, spawned):
    """A bridge with limits behind a proxy on this machine, and the secret of a key of three a minute."""
    secret, key = new_key("few", rate=Rate(3, 60))
    (tmp_path / "keys.toml").write_text(key.toml)
    flags = ("--api-key-file", tmp_path / "keys.toml", "--trusted-proxies", "127.0.0.1", "--limits-address", "5/minute")
    return spawned(*flags), secret


async def test_limits_follow_the_key_and_the_address_that_the_proxy_saw(limited, connect):
    bridge, secret = limited
    statuses = []
    for lines in ((bearer(secret),), (f"x-api-key: {secret}",), (f"AUTHORIZATION: BEARER  {secret}",)) * 2:
        path = "/mcp/list" if len(statuses) % 2 else "/v1/models"
        statuses.append((await (await connect(bridge)).get(path, *lines, "X-Forwarded-For: 1.1.1.1, 127.0.0.1")).status)
    assert statuses == [200] * 3 + [429] * 2 + [429]
    wire = await connect(bridge)
    spoofed = [await wire.get("/mcp/list", f"X-Forwarded-For: 9.9.9.{n}, 2.2.2.2") for n in range(7)]
    assert [answer.status for answer in spoofed] == [401] * 5 + [429] * 2
    wide = [await wire.get("/mcp/list", f"X-Forwarded-For: 2001:db8::{n:x}") for n in range(7)]
    assert [answer.status for answer in wide] == [401] * 5 + [429] * 2
    for odd in ("unknown", "", ",", "1.1.1.1.1", "::ffff:2.2.2.2", "[::ffff:2.2.2.2]:80", "a" * 9000, "é"):
        assert (await wire.get("/mcp/list", f"X-Forwarded-For: {odd}")).status in (401, 429)
    assert (await wire.get("/mcp/list", "X-Forwarded-For: ::ffff:2.2.2.2")).status == 429


async def test_tokens_that_are_not_the_issuers_are_worth_nothing(authority, spawned, connect, forge):
    authority.add_key("rsa", "RS256")
    flags = ("--oauth-issuers", authority.url, "--oauth-resource", RESOURCE, "--oauth-jwks-pause-s", 0)
    bridge = spawned(*flags)
    wire = await connect(bridge)

    async def status(token):
        return (await wire.get("/mcp/list", bearer(token))).status

    good = {"aud": RESOURCE}
    assert await status(authority.token(**good)) == 200
    assert await status(authority.token(kid="rsa", **good)) == 200
    now, public = int(time.time()), authority.keys["rsa"][1].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = {"iss": authority.url, "sub": "ann", "aud": RESOURCE, "exp": now + 600}
    asked = len(authority.asked)
    by_hand = [
        forge({"alg": name, "kid": "one", "typ": "at+jwt"}, claims) for name in ("none", "None", "nOnE", "", "HS256")
    ]
    said = by_hand[-1].rpartition(".")[0]
    for secret in (pem, pem.strip(), b"", json.dumps(authority.jwk("one")).encode()):
        signature = base64.urlsafe_b64encode(hmac.digest(secret, said.encode(), "sha256")).rstrip(b"=")
        by_hand.append(f"{said}.{signature.decode()}")
    kids = ("../../../etc/passwd", f"{authority.url}/keys", "' OR 1=1 --", "/dev/null", "", "a" * 5000)
    by_hand += [authority.token(header={"kid": kid}, **good) for kid in kids]
    for header in ({"kid": 1}, {"kid": ["one"]}, {"alg": ["ES256"]}, {"typ": "id+jwt"}, {"crit": ["exp"]}):
        by_hand.append(forge({"alg": "ES256", "kid": "one", "typ": "at+jwt", **header}, claims))
    for wrong in (
        {"aud": "https://other.example"}, {"aud": None}, {"aud": [RESOURCE + "/"]}, {"iss": "https://evil.example"}, 
        {"exp": now - 60}, {"exp": None}, {"exp": "never"}, {"exp": 1e400}, {"nbf": now + 3600}, {"iat": now + 3600},
        {"sub": ""}, {"sub": None}, {"sub": "a\nb"}, {"sub": "a" * 300}, {"sub": {"a": 1}}, {"cnf": {"jkt": "x"}},
    ):  # fmt: skip
        by_hand.append(authority.token(**{**good, **wrong}))
    by_hand.append(forge({"alg": "ES256", "kid": "one", "typ": "at+jwt"}, claims | {"iss": [1]}))
    token = authority.token(**good)
    by_hand += [token + "A", token[:-2], token + ".", f"{token}.{token}", token.replace(".", "..", 1), "..", "a.b.c"]
    deep = base64.urlsafe_b64encode(b'{"a":' * 3000).decode()
    by_hand += [f"{deep}.{deep}.a", "e30." + "A" * 15_000 + ".a"]
    for index, each in enumerate(by_hand):
        assert await status(each) == 401, (index, each[:200])
    for injected in ({"jku": f"{authority.url}/evil"}, {"x5u": f"{authority.url}/evil"}, {"jwk": authority.jwk("one")}):
        assert await status(forge({"alg": "ES256", "typ": "at+jwt", "kid": "two", **injected}, claims, b"x")) == 401
    assert "/evil" not in authority.asked[asked:]
    assert set(authority.asked[asked:]) <= {authority.metadata_path, "/keys"}
    log = bridge.log.read_text()
    assert "Traceback" not in log and token not in log and token.split(".")[2] not in log


class Keys(threading.Thread):
    """Where keys should be: a socket that answers as it likes."""

    def __init__(self, answer):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/keys"
        self.answer, self.asked, self.over, self.left = answer, 0, threading.Event(), threading.Event()

    def run(self):
        while not self.over.is_set():
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            self.asked += 1
            threading.Thread(target=self.serve, args=(taken,), daemon=True).start()

    def serve(self, taken):
        try:
            with taken:
                taken.recv(65536)
                for piece in self.answer:
                    taken.sendall(piece)
                    if self.over.wait(0.05 if len(self.answer) > 10 else 0):
                        return
        except OSError:
            self.left.set()

    def stop(self):
        self.over.set()
        self.listener.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        [HEAD + b"Content-Length: 9999\r\n\r\n", *[b" "] * 3000],
        [HEAD + b"\r\n" + b" " * 3_000_000],
        [HEAD + b"Content-Length: 2\r\n\r\n[]"],
        [HEAD + b"Content-Length: 60\r\n\r\n" + b'{"keys":[{"kty":"RSA","n":"AQ","e":"AQ","kid":"one"}],"a":1}'],
        [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 3000],
        [b"\x00" * 100],
        [],
    ],
    ids=["dripping", "huge", "an array", "a weak key", "elsewhere", "endless head", "no HTTP", "nothing"],
)
async def test_keys_that_cannot_be_had_hold_up_nobody(authority, spawned, connect, answer):
    keys = Keys(answer)
    keys.start()
    try:
        flags = ("--oauth-issuers", authority.url, "--oauth-resource", RESOURCE, "--oauth-timeout-s", 0.3)
        bridge = spawned(*flags, "--oauth-jwks-url", keys.url)
        wires = [await connect(bridge) for _ in range(8)]
        token = authority.token(aud=RESOURCE)
        began = time.perf_counter()
        statuses = {one.status for one in await asyncio.gather(*(w.get("/mcp/list", bearer(token)) for w in wires))}
        assert statuses <= {401, 503} and time.perf_counter() - began < 3
        assert keys.asked == 1
        assert (await wires[0].get("/healthz")).status == 200
        if len(answer) > 10 and b"Length" in answer[0]:
            async with asyncio.timeout(5):
                await asyncio.to_thread(keys.left.wait)  # the bridge hangs up
        assert "Traceback" not in bridge.log.read_text()
    finally:
        keys.stop()
