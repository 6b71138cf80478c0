import json
import re
from pathlib import Path

import pytest
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.upstream.auth import ClientCredentials, Passthrough
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.forms import parse_sources
from narthex_server.tools.upstream.health import HealthSettings
from narthex_server.tools.upstream.limits import Limits
from narthex_server.tools.upstream.node import SourceError
from narthex_server.tools.upstream.sandbox import Sandbox
from narthex_server.tools.upstream.secrets import SecretFile
from narthex_server.tools.upstream.source import (
    Http,
    Narthex,
    OpenApi,
    Process,
    ServerSource,
    Transport,
    WebSocket,
)
from narthex_server.tools.upstream.tls import Tls

MISTRAL = {
    "servers": [
        {
            "id": "fs",
            "name": "Filesystem",
            "source": {"type": "Process", "command": "npx", "args": ["fs", "${ROOT}"], "work_dir": "/tmp", "env": {}},
            "tool_prefix": "fs",
        },
        {
            "name": "Far",
            "source": {"type": "Http", "url": "https://far.example/mcp", "headers": {"X-A": "b"}, "timeout_secs": 60},
            "bearer_token": "${TOKEN}",
        },
        {"name": "Socket", "source": {"type": "WebSocket", "url": "wss://far.example"}},
        {"name": "Off", "enabled": False, "source": {"type": "Process", "command": "x"}},
    ],
    "auto_register_tools": True,
    "tool_timeout_secs": 12,
    "max_concurrent_calls": 5,
}
ENVIRONMENT = {"ROOT": "/data", "TOKEN": "s3cret"}


def test_mistral_rs_form():
    local, far, socket = parse_sources(MISTRAL, environ=ENVIRONMENT)
    assert local == ServerSource(
        "Filesystem",
        Process("npx", ("fs", "/data"), {}, "/tmp"),
        Presentation("fs"),
        call_timeout=12,
        concurrency=5,
    )
    assert far.transport == Http("https://far.example/mcp", {"X-A": "b", "Authorization": "Bearer s3cret"})
    assert far.call_timeout == 60 and far.presentation.prefix is None
    assert socket.transport == WebSocket("wss://far.example")


def test_common_form():
    document = {
        "mcpServers": {
            "a": {"command": "x", "args": ["-y"], "env": {"K": "${K:-v}"}, "cwd": "/tmp", "autoApprove": []},
            "b": {"url": "http://localhost:1/mcp", "headers": {"H": "1"}},
            "c": {"type": "sse", "url": "http://localhost:1/sse"},
            "d": {"command": "x", "disabled": True},
            "e": {"type": "ws", "url": "ws://localhost"},
        }
    }
    a, b, c, e = parse_sources(document, environ={})
    assert a.transport == Process("x", ("-y",), {"K": "v"}, "/tmp")
    assert b.transport == Http("http://localhost:1/mcp", {"H": "1"})
    assert c.transport == Http("http://localhost:1/sse", sse=True)
    assert e.transport == WebSocket("ws://localhost")


def far(url: str = "https://far.example/mcp", **more: object) -> dict:
    return {"mcpServers": {"a": {"url": url, **more}}}


CLIENT = {"type": "client_credentials", "client_id": "i", "client_secret": "s3cret"}


def test_other_servers_apis_and_who_shows_what_to_whom():
    def one(document: dict) -> Transport:
        (source,) = parse_sources(document, environ=ENVIRONMENT)
        return source.transport

    tls = {"ca": "ca.pem", "cert": "c.pem", "key": "c.key", "server_name": "far"}
    other = one(far("grpcs://far.example:7411", api_key={"file": "/run/key"}, tls=tls, delegate=True))
    assert other == Narthex(
        "far.example:7411", True, SecretFile("/run/key"), Tls("ca.pem", "c.pem", "c.key", True, "far"), delegate=True
    )
    assert one(far("grpc://far.example:7411", auth={"type": "passthrough"})) == Narthex(
        "far.example:7411", passthrough=True
    )
    api = one(
        far(
            "https://api.example/v1",
            type="openapi",
            document="api.yaml",
            operations={"include": ["tag:a"], "exclude": ["b"]},
        )
    )
    assert api == OpenApi("api.yaml", "https://api.example/v1", include=("tag:a",), exclude=("b",))
    auth = ClientCredentials("i", "s3cret", "https://as.example/token", scope="a b", method="post")
    stated = CLIENT | {"token_url": "https://as.example/token", "scope": "a b", "method": "post"}
    assert one(far(auth=stated)) == Http("https://far.example/mcp", auth=auth)
    for source, expected in (
        ({"type": "Narthex", "url": "grpc://h:1", "api_key": "${TOKEN}"}, Narthex("h:1", api_key="s3cret")),
        ({"type": "OpenApi", "document": "x", "auth": {"type": "passthrough"}}, OpenApi("x", auth=Passthrough())),
        (
            {"type": "WebSocket", "url": "ws://h", "headers": {"H": {"file": "f"}}},
            WebSocket("ws://h", {"H": SecretFile("f")}),
        ),
    ):
        assert one({"servers": [{"name": "a", "source": source}]}) == expected
    token = {"servers": [{"name": "a", "source": {"type": "Http", "url": "http://h"}, "bearer_token": {"file": "f"}}]}
    assert one(token) == Http("http://h", {"Authorization": SecretFile("f", "Bearer ")})
    assert "s3cret" not in repr([one(far(auth=stated)), one(far("grpc://h:1", api_key="s3cret"))])


@pytest.mark.parametrize("form", ["servers", "mcpServers"])
def test_how_tools_are_named_and_chosen(form):
    servers = {
        "plain": {},
        "named": {"tool_prefix": "n"},
        "prefixed": {"namespace": "prefix"},
        "chosen": {
            "rename": {"read": "look"}, "describe": {"read": "Look at a file"}, "include": ["r*"], "exclude": ["*x"],
            "scan": "refuse",
        },
    }  # fmt: skip
    if form == "servers":
        process = {"type": "Process", "command": "x"}
        document = {"servers": [{"name": name, "source": process, **keys} for name, keys in servers.items()]}
    else:
        document = {"mcpServers": {name: {"command": "x", **keys} for name, keys in servers.items()}}
    plain, named, prefixed, chosen = (one.presentation for one in parse_sources(document | {"namespace": "flat"}))
    assert [one.prefix for one in (plain, named, prefixed, chosen)] == ["", "n", None, ""]
    assert chosen == Presentation("", {"read": "look"}, {"read": "Look at a file"}, ("r*",), ("*x",), "refuse")
    assert parse_sources(document)[0].presentation == Presentation()


PAGES = ("upstreams.md", "builtin-servers.md")


@pytest.mark.parametrize("page", PAGES)
def test_the_documented_configurations_are_understood(page):
    text = (Path(__file__).parents[3] / "docs" / page).read_text("utf-8")
    blocks = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    assert blocks
    for block in blocks:
        assert len(parse_sources(block, environ={})) == len(block.get("servers") or block["mcpServers"])


def test_nothing_is_no_servers():
    assert parse_sources({}) == ()


def test_secrets_are_not_in_the_representation():
    assert "s3cret" not in repr(parse_sources(MISTRAL, environ=ENVIRONMENT))


@pytest.mark.parametrize("form", ["servers", "mcpServers"])
def test_breaker_and_health_are_settings_of_a_server_in_both_forms(form):
    def parsed(**own):
        entry = {"name": "a", "source": {"type": "Process", "command": "x"}} if form == "servers" else {"command": "x"}
        document = {form: [entry | own] if form == "servers" else {"a": entry | own}}
        return parse_sources(document, "f.json", {})[0]

    usual = parsed()
    assert (usual.breaker, usual.health) == (BreakerSettings(5, 30.0, 10.0), HealthSettings(30.0, 10.0, 2))
    assert parsed(breaker=True, health={}) == usual
    other = parsed(breaker={"failures": 2, "window_secs": 5, "open_secs": 1.5}, health={"interval_secs": 9})
    assert (other.breaker, other.health) == (BreakerSettings(2, 5, 1.5), HealthSettings(9, 10.0, 2))
    off = parsed(breaker=False, health=False)
    assert (off.breaker, off.health) == (None, None)
    for wrong, where in (
        ({"breaker": {"failure": 1}}, "a.breaker.failure: is not known"),
        ({"breaker": {"failures": 1.5}}, "a.breaker.failures: must be a whole number"),
        ({"breaker": 3}, "a.breaker: must be an object"),
        ({"health": {"timeout_secs": float("inf")}}, "a.health.timeout_secs: must be a number above 0"),
    ):
        with pytest.raises(SourceError) as caught:
            parsed(**wrong)
        assert where in str(caught.value).replace("servers[0]", "a").replace("mcpServers.", "")


@pytest.mark.parametrize("form", ["servers", "mcpServers"])
def test_what_a_process_may_use_stands_beside_its_command_in_both_forms(form):
    def parsed(**own):
        command = {"command": "x", **own}
        stated = [{"name": "a", "source": {"type": "Process", **command}}] if form == "servers" else {"a": command}
        return parse_sources({form: stated}, "f.json", {"ROOT": "/data"})[0].transport

    usual = parsed()
    assert (usual.limits, usual.sandbox, usual.env_allow) == (Limits(), Sandbox(), None)
    own = parsed(limits={"memory_mb": 512, "processes": 8}, env_allow=["LC_*"], sandbox="auto")
    assert (own.limits, own.env_allow) == (Limits(memory_mb=512, processes=8), ("LC_*",))
    assert own.sandbox == Sandbox("auto") and parsed(sandbox=True).sandbox == Sandbox("on")
    assert parsed(limits=False).limits is None and parsed(env_allow=[]).env_allow == ()
    boxed = parsed(sandbox={"network": True, "writable": ["${ROOT}"], "readable": ["/tmp/x"]})
    assert boxed.sandbox == Sandbox("on", True, ("/data",), ("/tmp/x",))
    for wrong, where in (
        ({"limits": {"memory": 1}}, "limits.memory: is not known"),
        ({"limits": {"memory_mb": 0}}, "limits.memory_mb: must be a number above 0"),
        ({"limits": {"cpu_secs": 0.5}}, "limits.cpu_secs: must be a whole number"),
        ({"limits": {"file_mb": 1 << 32}}, "limits.file_mb: must be at most 4294967295"),
        ({"sandbox": "maybe"}, "sandbox: is 'maybe'; known are off, auto, on"),
        ({"sandbox": {"write": []}}, "sandbox.write: is not known"),
        ({"env_allow": "PATH"}, "env_allow: must be an array of strings"),
    ):
        with pytest.raises(SourceError) as caught:
            parsed(**wrong)
        assert where in str(caught.value)


def test_what_a_limit_does_not_say_is_as_usual():
    assert Limits(memory_mb=512).over(Limits(100, 10, 64)) == Limits(512, 10, 64, 0, 0)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"other": 1}, "f.json: has neither `servers`"),
        ({"servers": {}}, "f.json.servers: must be an array"),
        ({"servers": [{"name": "a"}]}, "f.json.servers[0].source: is missing"),
        ({"servers": [{"name": "a", "source": {"type": "Pipe"}}]}, "f.json.servers[0].source.type: is 'Pipe'; known"),
        (
            {"servers": [{"name": "a", "sorce": 1}]},
            "f.json.servers[0].sorce: is not known; known are bearer_token, breaker, cache",
        ),
        ({"servers": [{"source": {"type": "Process", "command": "x"}}]}, "f.json.servers[0].name: is missing"),
        ({"servers": [], "namespace": "deep"}, "f.json.namespace: is 'deep'; known are prefix, flat"),
        (
            {"mcpServers": {"a": {"command": "x", "namespace": "flat", "tool_prefix": "p"}}},
            "f.json.mcpServers.a.namespace: cannot stand beside tool_prefix",
        ),
        (
            {"mcpServers": {"a": {"command": "x", "rename": {"read": "a/b"}}}},
            "f.json.mcpServers.a.rename.read: must be 1 to 64 letters",
        ),
        (
            {"mcpServers": {"a": {"command": "x", "rename": {"read": "x", "write": "x"}}}},
            "f.json.mcpServers.a.rename: gives two tools the same name",
        ),
        ({"mcpServers": {"a": {"command": "x", "include": "*"}}}, "f.json.mcpServers.a.include: must be an array"),
        ({"mcpServers": {"a": {"command": "x", "scan": "hard"}}}, "f.json.mcpServers.a.scan: is 'hard'; known are"),
        (
            {"mcpServers": {"a": {"command": "x", "cache": {"tool": []}}}},
            "f.json.mcpServers.a.cache.tool: is not known",
        ),
        (
            {"mcpServers": {"a": {"command": "x", "cache": {"tools": "*"}}}},
            "f.json.mcpServers.a.cache.tools: must be an array",
        ),
        (
            {"mcpServers": {"a": {"command": "x", "cache": {"ttl_secs": 0}}}},
            "f.json.mcpServers.a.cache.ttl_secs: must be a number above 0",
        ),
        (
            {"mcpServers": {"a": {"command": "x", "sampling": "model", "cache": {"tools": ["*"]}}}},
            "f.json.mcpServers.a.cache: cannot stand beside sampling by a model",
        ),
        ({"servers": [], "tool_timeout_secs": -1}, "f.json.tool_timeout_secs: must be a number above 0"),
        ({"mcpServers": {"a": {}}}, "f.json.mcpServers.a.command: is missing"),
        ({"mcpServers": {"a": {"command": "x", "args": "y"}}}, "f.json.mcpServers.a.args: must be an array of strings"),
        ({"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}, "f.json.mcpServers.a.env: must be an object of"),
        ({"mcpServers": {"a": {"url": "file:///x"}}}, "f.json.mcpServers.a.url: must be a URL"),
        ({"mcpServers": {"a": {"command": "${GONE}"}}}, "f.json.mcpServers.a.command: needs the environment variable"),
        ({"mcpServers": {"a": 3}}, "f.json.mcpServers.a: must be an object"),
        (far(headers={"H": {"fil": "x"}}), "f.json.mcpServers.a.headers.H.fil: is not known; known are file"),
        (far(headers={"H": {"file": ""}}), "f.json.mcpServers.a.headers.H.file: is missing or empty"),
        (far(headers={"H": 3}), "f.json.mcpServers.a.headers: must be an object of strings, or of"),
        (far(tls={"certs": "x"}), "f.json.mcpServers.a.tls.certs: is not known; known are ca, cert, key"),
        (far(tls={"key": "x"}), "f.json.mcpServers.a.tls.cert: is missing, and key belongs to it"),
        (far(tls={"ca": "x", "verify": False}), "f.json.mcpServers.a.tls.verify: says to trust anybody, and ca"),
        (far(auth={"type": "oauth"}), "f.json.mcpServers.a.auth.type: is 'oauth'; known are client_credentials"),
        (far(auth={"type": "passthrough", "scope": "x"}), "f.json.mcpServers.a.auth.scope: is not known"),
        (far(auth=CLIENT | {"client_secret": None}), "f.json.mcpServers.a.auth.client_secret: is missing"),
        (far(auth=CLIENT | {"method": "jwt"}), "f.json.mcpServers.a.auth.method: is 'jwt'; known are basic, post"),
        (far(auth=CLIENT, headers={"authorization": "x"}), "f.json.mcpServers.a.auth: says what authorization is sent"),
        (far("wss://far.example", auth=CLIENT), "f.json.mcpServers.a.auth: is not for WebSockets; give a header"),
        (far("grpc://far.example"), "f.json.mcpServers.a.url: must be grpc://HOST:PORT or grpcs://HOST:PORT"),
        (far("grpc://far.example:1", tls={"ca": "x"}), "f.json.mcpServers.a.tls: needs a URL that starts with grpcs"),
        (far("grpcs://far.example:1", tls={"verify": False}), "f.json.mcpServers.a.tls: verify cannot be false"),
        (far("grpc://far.example:1", auth=CLIENT), "f.json.mcpServers.a.auth: can only be passthrough for a narthex"),
        ({"mcpServers": {"a": {"type": "openapi"}}}, "f.json.mcpServers.a.document: is missing"),
        (far("https://x.example/?k=1", type="openapi", document="x"), "f.json.mcpServers.a.url: must end with a path"),
        (
            far(type="openapi", document="x", include="GET *"),
            "f.json.mcpServers.a.include: must be an array of strings",
        ),
    ],
)
def test_mistakes_are_told_by_file_and_key(document, text):
    with pytest.raises(SourceError) as caught:
        parse_sources(document, "f.json", {})
    assert str(caught.value).startswith(text)


def test_a_name_is_used_once():
    twice = {"name": "a", "source": {"type": "Process", "command": "x"}}
    with pytest.raises(SourceError, match="two servers are named 'a'"):
        parse_sources({"servers": [twice, twice]})


def test_who_samples_and_what_is_spoken_is_set_in_both_forms():
    mine = {"sampling": "model", "protocol": "2025-11-25"}
    stated = {"servers": [{"name": "a", "source": {"type": "Process", "command": "x"}, **mine}]}
    for document in (stated, {"mcpServers": {"a": {"command": "x", **mine}}}):
        (source,) = parse_sources(document)
        assert (source.sampling, source.protocol) == ("model", "2025-11-25")
    (source,) = parse_sources({"mcpServers": {"a": {"command": "x"}}})
    assert (source.sampling, source.protocol) == ("client", "auto")


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({}, CacheRule()), ({"cache": True}, CacheRule()), ({"cache": False}, None),
        ({"cache": {"tools": ["glob", "read_*"], "ttl_secs": 2.5}}, CacheRule(("glob", "read_*"), 2.5)),
        ({"cache": {"tools": ["glob"]}}, CacheRule(("glob",))),
    ],
)  # fmt: skip
def test_which_results_are_kept_is_said_in_both_forms(said, rule):
    stated = {"servers": [{"name": "a", "source": {"type": "Process", "command": "x"}, **said}]}
    for document in (stated, {"mcpServers": {"a": {"command": "x", **said}}}):
        (source,) = parse_sources(document)
        assert source.cache == rule


@pytest.mark.parametrize("wrong", [{"sampling": "yes"}, {"protocol": "2024-11-05"}, {"protocol": 3}])
def test_an_unknown_choice_is_refused_with_those_there_are(wrong):
    with pytest.raises(SourceError) as caught:
        parse_sources({"mcpServers": {"a": {"command": "x", **wrong}}})
    assert next(iter(wrong)) in caught.value.violations[0].field
