"""From a configuration to the catalog: the upstreams, and what stands around every call of a tool."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from narthex.settings import SettingsError
from prometheus_client import CollectorRegistry

from narthex_server.config.server import ServerConfig
from narthex_server.metrics.tools import ToolMetrics, UpstreamMetrics
from narthex_server.pipelines.models import Models
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.model_sampler import ModelSampler
from narthex_server.tools.server import UpstreamServer
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.tools.upstream.source import ServerSource


async def forwarding(config: ServerConfig, models: Models, registry: CollectorRegistry) -> Catalog:
    """A catalog that is not started, without native tools; raises SettingsError."""
    servers = await in_thread(upstreams, config, ModelSampler(models))
    catalog = Catalog(servers=servers, observers=[ToolMetrics(registry)])
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
    from narthex_server.tools.upstream.supervisor import Upstream

    def timed(source: "ServerSource") -> "ServerSource":
        own = source.call_timeout != DEFAULT_CALL_TIMEOUT
        call = source.call_timeout if own else config.tool_timeout
        return replace(source, call_timeout=call, start_timeout=config.upstream_start_timeout)

    return [Upstream(timed(source), sampler) for source in sources]
