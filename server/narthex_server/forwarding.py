"""From a configuration to the catalog: the upstreams, and what stands around every call of a tool."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from narthex.settings import SettingsError
from prometheus_client import CollectorRegistry

from narthex_server.config.server import DELEGATE_TOKEN_VARIABLE, ServerConfig
from narthex_server.metrics.tools import ToolMetrics, UpstreamMetrics
from narthex_server.pipelines.models import Models
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.model_sampler import ModelSampler
from narthex_server.tools.server import Scope, UpstreamServer
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.tools.upstream.source import ServerSource


async def forwarding(config: ServerConfig, models: Models, registry: CollectorRegistry) -> Catalog:
    """A catalog that is not started, without native tools; raises SettingsError."""
    servers = await in_thread(upstreams, config, ModelSampler(models))
    catalog = Catalog(servers=servers, observer=ToolMetrics(registry))
    UpstreamMetrics(registry, catalog.servers)
    return catalog


def upstreams(config: ServerConfig, sampler: ModelSampler) -> Sequence[UpstreamServer]:
    """The configured upstreams, not started; the client that they need is imported only where there are any."""
    from narthex_server.tools.upstream.forms import parse_sources
    from narthex_server.tools.upstream.node import SourceError
    from narthex_server.tools.upstream.source import DEFAULT_CALL_TIMEOUT

    try:
        sources = parse_sources(config.upstreams(), str(config.mcp_config or "the demo's mcp-config"))
    except SourceError as error:
        raise SettingsError(error.message) from error
    if not sources:
        return ()

    def timed(source: "ServerSource") -> "ServerSource":
        own = source.call_timeout != DEFAULT_CALL_TIMEOUT
        call = source.call_timeout if own else config.tool_timeout
        return replace(source, call_timeout=call, start_timeout=config.upstream_start_timeout)

    return [upstream(timed(source), config, sampler) for source in sources]


def upstream(source: "ServerSource", config: ServerConfig, sampler: ModelSampler) -> UpstreamServer:
    """One upstream, not started, with as many connections as its scope wants."""
    from narthex_server.tools.upstream.scoped import ScopedUpstream, ScopeLimits
    from narthex_server.tools.upstream.supervisor import Upstream

    scope = source.scope or default_scope(config)
    source = replace(source, scope=scope)
    if scope == "shared" or (scope == "tenant" and source.tenants.is_single):  # a tenant alone shares with itself
        return Upstream(source, sampler)
    own = config.connections
    limits = ScopeLimits(own.per_upstream, own.per_tenant, own.tenant_idle, own.session_idle)
    return ScopedUpstream(scope, lambda: Upstream(source, sampler), limits)


def default_scope(config: ServerConfig) -> Scope:
    """Tenants share nothing where callers can be told apart: by keys, or by a bridge that speaks for them."""
    apart = config.api_key_file is not None or DELEGATE_TOKEN_VARIABLE in os.environ
    return "tenant" if apart and not config.connections.single_tenant else "shared"
