import pytest
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import upstream_pb2 as wire
from narthex_server.errors import InvalidRequest
from narthex_server.services.upstream_spec import source_from
from narthex_server.tools.audience import EVERYBODY, Audience
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.upstream.breaker import BreakerSettings
from narthex_server.tools.upstream.health import HealthSettings
from narthex_server.tools.upstream.limits import Limits
from narthex_server.tools.upstream.sandbox import Sandbox
from narthex_server.tools.upstream.source import DEFAULT_CALL_TIMEOUT, DEFAULT_CONCURRENCY, Http, Process

PROCESS = wire.ProcessSource(command="run", arguments=["-v"], environment={"A": "1"}, working_directory="/srv")


def test_a_process_with_defaults():
    source = source_from(wire.UpstreamSpec(name="one", process=PROCESS))
    assert source.transport == Process("run", ("-v",), {"A": "1"}, "/srv")
    assert (source.presentation.prefix, source.sampling, source.protocol) == (None, "client", "auto")
    assert (source.call_timeout, source.concurrency) == (DEFAULT_CALL_TIMEOUT, DEFAULT_CONCURRENCY)
    assert (source.breaker, source.health) == (BreakerSettings(), HealthSettings())
    assert (source.scope, source.tenants) == (None, EVERYBODY)


def test_a_url_with_everything():
    http = wire.HttpSource(url="https://example.com/mcp", headers={"x-a": "b"}, bearer_token="t", sse=True)
    source = source_from(
        wire.UpstreamSpec(
            name="my-one_2",
            http=http,
            scope=wire.UPSTREAM_SCOPE_TENANT,
            tenants=["a", "b*"],
            call_timeout=Duration(seconds=2, nanos=500_000_000),
            tool_prefix="",
            max_concurrent_calls=3,
            sampling=wire.UPSTREAM_SAMPLING_MODEL,
            protocol="2025-11-25",
            breaker=wire.BreakerSpec(failures=9, window=Duration(seconds=60)),
            health=wire.HealthSpec(disabled=True),
        )
    )
    assert source.transport == Http("https://example.com/mcp", {"x-a": "b", "Authorization": "Bearer t"}, sse=True)
    assert (source.presentation.prefix, source.call_timeout, source.concurrency) == ("", 2.5, 3)
    assert (source.sampling, source.protocol) == ("model", "2025-11-25")
    assert (source.scope, source.tenants) == ("tenant", Audience(("a", "b*")))
    assert (source.breaker, source.health) == (BreakerSettings(9, 60.0, 10.0), None)


def without(spec: wire.UpstreamSpec) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        source_from(spec)
    return [violation.field for violation in caught.value.violations]


def test_all_fields_at_fault_are_named_at_once():
    assert without(wire.UpstreamSpec()) == ["spec.name", "spec.source"]
    assert without(
        wire.UpstreamSpec(
            name="one",
            process=wire.ProcessSource(arguments=["a\0"], environment={"A=B": ""}),
            scope=99,
            protocol="2024",
            call_timeout=Duration(seconds=-1),
            breaker=wire.BreakerSpec(open=Duration()),
            health=wire.HealthSpec(timeout=Duration(seconds=10**9)),
        )
    ) == [
        "spec.process.command",
        "spec.process.arguments[0]",
        "spec.process.environment",
        "spec.scope",
        "spec.protocol",
        "spec.call_timeout",
        "spec.breaker.open",
        "spec.health.timeout",
    ]


@pytest.mark.parametrize("name", ["", "a__b", "a b", "é", "x" * 33, "a/b", "a\n"])
def test_names_that_no_tool_can_have(name):
    assert without(wire.UpstreamSpec(name=name, process=PROCESS)) == ["spec.name"]


@pytest.mark.parametrize("url", ["", "file:///x", "http://", "https://host:port/", "http://a\nb/"])
def test_urls_that_are_none(url):
    assert without(wire.UpstreamSpec(name="one", http=wire.HttpSource(url=url))) == ["spec.http.url"]


def test_header_values_are_not_repeated_in_errors():
    http = wire.HttpSource(url="https://example.com", headers={"x-a": "secret\r\nx"}, bearer_token="sec ret")
    with pytest.raises(InvalidRequest) as caught:
        source_from(wire.UpstreamSpec(name="one", http=http))
    assert [violation.field for violation in caught.value.violations] == [
        "spec.http.headers['x-a']",
        "spec.http.bearer_token",
    ]
    assert "secret" not in caught.value.message and "sec ret" not in caught.value.message


def test_what_a_process_may_use():
    process = wire.ProcessSource(
        command="run",
        environment_allow=["LC_*"],
        limits=wire.ProcessLimits(memory_mb=512, open_files=64),
        sandbox=wire.SandboxSpec(mode=wire.SANDBOX_MODE_ON, network=True, writable=["/srv"]),
    )
    transport = source_from(wire.UpstreamSpec(name="one", process=process)).transport
    assert transport.limits == Limits(memory_mb=512, open_files=64) and transport.env_allow == ("LC_*",)
    assert transport.sandbox == Sandbox("on", True, ("/srv",))
    process = wire.ProcessSource(command="run", limits=wire.ProcessLimits(disabled=True))
    transport = source_from(wire.UpstreamSpec(name="one", process=process)).transport
    assert (transport.limits, transport.sandbox, transport.env_allow) == (None, Sandbox(), None)
    process.sandbox.mode = 9
    process.sandbox.readable.append("a\0b")
    assert without(wire.UpstreamSpec(name="one", process=process)) == [
        "spec.process.sandbox.readable[0]",
        "spec.process.sandbox.mode",
    ]


def test_which_results_are_kept():
    def rule(**fields: object) -> CacheRule | None:
        return source_from(wire.UpstreamSpec(name="one", process=PROCESS, cache=wire.CacheSpec(**fields))).cache

    assert source_from(wire.UpstreamSpec(name="one", process=PROCESS)).cache == CacheRule()
    assert rule(disabled=True) is None
    assert rule(tools=["glob"], ttl=Duration(seconds=5)) == CacheRule(("glob",), 5.0)
    wrong = wire.CacheSpec(tools=["glob"], ttl=Duration(seconds=-5))
    spec = wire.UpstreamSpec(name="one", process=PROCESS, cache=wrong, sampling=wire.UPSTREAM_SAMPLING_MODEL)
    assert without(spec) == ["spec.cache.ttl", "spec.cache.tools"]
