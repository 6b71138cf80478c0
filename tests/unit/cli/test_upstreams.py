import argparse

import pytest
from google.protobuf.json_format import MessageToDict
from narthex.cli import upstreams
from narthex.settings import SettingsError
from narthex.v1 import upstream_pb2 as wire


@pytest.fixture
def added():
    """The spec that a line of `narthex upstreams add` sends."""

    def spec(*words: str) -> wire.UpstreamSpec:
        parser = argparse.ArgumentParser()
        upstreams.add(parser)
        return upstreams.spec_from(parser.parse_args(["add", *words]))

    return spec


def test_a_command_is_all_after_the_dashes(added, monkeypatch):
    monkeypatch.setenv("HERE", "from here")
    spec = added("files", "--env", "HERE", "--env", "A=b=c", "--cwd", "/srv", "--", "npx", "-y", "--json", "server")
    assert MessageToDict(spec.process) == {
        "command": "npx",
        "arguments": ["-y", "--json", "server"],
        "environment": {"HERE": "from here", "A": "b=c"},
        "workingDirectory": "/srv",
    }
    assert not spec.breaker.disabled and not spec.health.disabled and not spec.HasField("call_timeout")


def test_a_process_has_limits_and_a_sandbox(added):
    words = ("--memory-mb", "512", "--cpu-secs", "60", "--env-allow", "LC_*", "--sandbox", "auto", "--writable", "/srv")
    spec = added("files", *words, "--network", "--", "server")
    assert MessageToDict(spec.process, preserving_proto_field_name=True) == {
        "command": "server",
        "environment_allow": ["LC_*"],
        "limits": {"memory_mb": 512, "cpu_secs": 60},
        "sandbox": {"mode": "SANDBOX_MODE_AUTO", "network": True, "writable": ["/srv"]},
    }
    with pytest.raises(SystemExit):
        added("files", "--memory-mb", "0", "--", "server")
    with pytest.raises(SettingsError, match="--open-files: is for a process"):
        added("files", "https://example.com", "--open-files", "9")


def test_a_url_has_headers_and_a_token(added, monkeypatch):
    monkeypatch.setenv("TOKEN", "tok-0123456789")
    words = ("--header", "X-Team: porch", "--bearer-variable", "TOKEN", "--type", "sse", "--call-timeout", "2.5")
    spec = added("search", "https://example.com/mcp", *words, "--no-breaker", "--no-health")
    assert (spec.http.url, spec.http.sse, dict(spec.http.headers)) == (
        "https://example.com/mcp", True, {"X-Team": "porch"},
    )  # fmt: skip
    assert spec.http.bearer_token == "tok-0123456789" and spec.call_timeout.ToTimedelta().total_seconds() == 2.5
    assert spec.breaker.disabled and spec.health.disabled


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("https://example.com", "--header", "secret"), "--header: must be NAME:VALUE"),
        (
            ("https://example.com", "--bearer-variable", "NOT_SET"),
            "--bearer-variable: the environment variable NOT_SET",
        ),
        (("https://example.com", "--env", "A=secret"), "--env: is for a process"),
        (("https://example.com", "--cwd", "/srv"), "--cwd: is for a process"),
        (("--env", "NOT_SET", "--", "server"), "--env: the environment variable NOT_SET"),
        (("--env", "=secret", "--", "server"), "--env: must be NAME=VALUE"),
        (("--header", "A: secret", "--", "server"), "--header: is for a URL"),
        (("--type", "http", "--", "server"), "--type: is for a URL"),
        (("--bearer-variable", "HOME", "--", "server"), "--bearer-variable: is for a URL"),
    ],
)
def test_what_cannot_be_meant_is_told_without_its_value(added, words, told):
    with pytest.raises(SettingsError) as caught:
        added("name", *words)
    assert told in str(caught.value) and "secret" not in str(caught.value)


def test_an_action_is_needed_and_a_server_that_is_not_there_is_told(narthex):
    assert narthex("upstreams").returncode == 2
    failed = narthex("upstreams", "list", "--server", "127.0.0.1:1", "--timeout", "5")
    assert failed.returncode == 1 and "is a server at 127.0.0.1:1?" in failed.stderr
