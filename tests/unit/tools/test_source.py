import pytest
from narthex_server.tools.upstream.forms import parse_sources
from narthex_server.tools.upstream.node import SourceError
from narthex_server.tools.upstream.source import Http, Process, ServerSource, WebSocket

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
        "Filesystem", Process("npx", ("fs", "/data"), {}, "/tmp"), "fs", call_timeout=12, concurrency=5
    )
    assert far.transport == Http("https://far.example/mcp", {"X-A": "b", "Authorization": "Bearer s3cret"})
    assert far.call_timeout == 60 and far.prefix is None
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


def test_nothing_is_no_servers():
    assert parse_sources({}) == ()


def test_secrets_are_not_in_the_representation():
    assert "s3cret" not in repr(parse_sources(MISTRAL, environ=ENVIRONMENT))


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"other": 1}, "f.json: has neither `servers`"),
        ({"servers": {}}, "f.json.servers: must be an array"),
        ({"servers": [{"name": "a"}]}, "f.json.servers[0].source: is missing"),
        ({"servers": [{"name": "a", "source": {"type": "Pipe"}}]}, "f.json.servers[0].source.type: is 'Pipe'; known"),
        (
            {"servers": [{"name": "a", "sorce": 1}]},
            "f.json.servers[0].sorce: is not known; known are bearer_token, enabled",
        ),
        ({"servers": [{"source": {"type": "Process", "command": "x"}}]}, "f.json.servers[0].name: is missing"),
        ({"servers": [], "tool_timeout_secs": -1}, "f.json.tool_timeout_secs: must be a number above 0"),
        ({"mcpServers": {"a": {}}}, "f.json.mcpServers.a.command: is missing"),
        ({"mcpServers": {"a": {"command": "x", "args": "y"}}}, "f.json.mcpServers.a.args: must be an array of strings"),
        ({"mcpServers": {"a": {"command": "x", "env": {"A": 1}}}}, "f.json.mcpServers.a.env: must be an object of"),
        ({"mcpServers": {"a": {"url": "file:///x"}}}, "f.json.mcpServers.a.url: must be a URL"),
        ({"mcpServers": {"a": {"command": "${GONE}"}}}, "f.json.mcpServers.a.command: needs the environment variable"),
        ({"mcpServers": {"a": 3}}, "f.json.mcpServers.a: must be an object"),
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


@pytest.mark.parametrize("wrong", [{"sampling": "yes"}, {"protocol": "2024-11-05"}, {"protocol": 3}])
def test_an_unknown_choice_is_refused_with_those_there_are(wrong):
    with pytest.raises(SourceError) as caught:
        parse_sources({"mcpServers": {"a": {"command": "x", **wrong}}})
    assert next(iter(wrong)) in caught.value.violations[0].field
