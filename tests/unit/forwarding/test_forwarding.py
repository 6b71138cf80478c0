from pathlib import Path

import pytest
from narthex_server.config.connections import Connections
from narthex_server.config.server import DELEGATE_TOKEN_VARIABLE, ServerConfig
from narthex_server.config.upstream import UpstreamSettings
from narthex_server.forwarding import confined, default_scope, upstream
from narthex_server.tools.audience import Audience
from narthex_server.tools.model_sampler import ModelSampler
from narthex_server.tools.reach import Reach
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.upstream.limits import Limits
from narthex_server.tools.upstream.sandbox import Sandbox
from narthex_server.tools.upstream.scoped import ScopedUpstream, ScopeLimits
from narthex_server.tools.upstream.source import Http, Process, ServerSource
from narthex_server.tools.upstream.supervisor import Upstream

KEYED = ServerConfig(api_key_file=Path("keys.toml"))


@pytest.fixture(autouse=True)
def without_a_bridge(monkeypatch):
    monkeypatch.delenv(DELEGATE_TOKEN_VARIABLE, raising=False)


def made(config=KEYED, **more):
    return upstream(ServerSource("a", Process("true"), **more), config, ModelSampler({}), Reach())


def test_tenants_share_nothing_where_callers_can_be_told_apart(monkeypatch):
    assert default_scope(ServerConfig()) == "shared"
    assert default_scope(KEYED) == "tenant"
    assert default_scope(ServerConfig(KEYED.api_key_file, connections=Connections(single_tenant=True))) == "shared"
    monkeypatch.setenv(DELEGATE_TOKEN_VARIABLE, "what a bridge knows")
    assert default_scope(ServerConfig()) == "tenant"


@pytest.mark.parametrize(
    "more, kind, scope",
    [
        ({}, ScopedUpstream, "tenant"),
        ({"scope": "shared"}, Upstream, "shared"),
        ({"scope": "session"}, ScopedUpstream, "session"),
        ({"tenants": Audience(("a", "b"))}, ScopedUpstream, "tenant"),
        ({"tenants": Audience(("a",))}, Upstream, "tenant"),
        ({"tenants": Audience(("a",)), "scope": "session"}, ScopedUpstream, "session"),
    ],
)
def test_an_upstream_has_the_connections_that_its_scope_wants(more, kind, scope):
    server = made(**more)
    assert type(server) is kind and server.status.scope == scope


def test_an_upstream_of_one_has_the_limits_that_are_set():
    config = ServerConfig(api_key_file=Path("keys.toml"), connections=Connections(False, 3, 2, 5.0, 7.0))
    assert made(config)._limits == ScopeLimits(3, 2, 5.0, 7.0)


def test_a_process_has_the_usual_limits_and_sandbox_where_it_has_none_of_its_own():
    config = ServerConfig(upstream=UpstreamSettings(memory_mb=100, open_files=64, sandbox="auto"))

    def kept(**own):
        return confined(ServerSource("a", Process("true", **own)), config).transport

    assert (kept().limits, kept().sandbox) == (Limits(memory_mb=100, open_files=64), Sandbox("auto"))
    own = kept(limits=Limits(memory_mb=500), sandbox=Sandbox("off", network=True))
    assert (own.limits, own.sandbox) == (Limits(memory_mb=500, open_files=64), Sandbox("off", network=True))
    assert kept(limits=None).limits is None
    remote = ServerSource("a", Http("https://example.com"))
    assert confined(remote, config) is remote


def test_an_upstream_that_a_model_of_ours_speaks_for_keeps_nothing():
    assert made(scope="shared").cache == CacheRule() == made().cache
    assert made(scope="shared", cache=CacheRule(("*",))).cache == CacheRule(("*",))
    assert made(scope="shared", sampling="model").cache is None is made(sampling="model").cache
    assert made(cache=None).cache is None
