"""From a configuration to the catalog: the upstreams, and what stands around every call of a tool."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from narthex.settings import SettingsError
from prometheus_client import CollectorRegistry

from narthex_server.config.server import ServerConfig
from narthex_server.metrics.catalog import MisfitMetrics, OfferMetrics
from narthex_server.metrics.policy import PolicyMetrics
from narthex_server.metrics.tools import ToolMetrics, UpstreamMetrics
from narthex_server.pipelines.models import Models
from narthex_server.tools.catalog import Catalog, Companion
from narthex_server.tools.model_sampler import ModelSampler
from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.policy.live import LivePolicy
from narthex_server.tools.policy.step import PolicyStep
from narthex_server.tools.reach import Reach
from narthex_server.tools.result_check import ResultCheck
from narthex_server.tools.search.searching import Searching
from narthex_server.tools.server import UpstreamServer
from narthex_server.tools.step import Step
from narthex_server.tools.visibility import EVERYTHING, Visibility
from narthex_server.watched_file import WatchedFile
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.tools.upstream.source import ServerSource


async def forwarding(config: ServerConfig, models: Models, registry: CollectorRegistry, reach: Reach) -> Catalog:
    """A catalog that is not started, without native tools; raises SettingsError."""
    servers = await in_thread(upstreams, config, ModelSampler(models), reach)
    shown = config.catalog
    inspection = Inspection(shown.scan)
    steps: list[Step] = []
    companions: list[Companion] = []
    visibility: Visibility = EVERYTHING
    if config.policy is not None:
        metrics = PolicyMetrics(registry)
        policy = await in_thread(LivePolicy, WatchedFile(config.policy), metrics)
        steps.append(PolicyStep(policy, metrics, lambda server: catalog.working_directory(server)))
        companions.append(policy)
        visibility = policy
    if shown.results != "off":
        steps.append(ResultCheck(shown.results, MisfitMetrics(registry).on_misfit))
    catalog = Catalog(
        servers=servers,
        observer=ToolMetrics(registry),
        steps=steps,
        visibility=visibility,
        companions=companions,
        searching=Searching(shown.search, shown.search_above, shown.lazy),
        inspection=inspection,
    )
    UpstreamMetrics(registry, catalog.servers)
    OfferMetrics(registry, lambda: catalog.renamed, lambda: inspection.suspects)
    return catalog


def upstreams(config: ServerConfig, sampler: ModelSampler, reach: Reach) -> Sequence[UpstreamServer]:
    """The configured upstreams, not started; what they need is imported only where there are any."""
    from narthex_server.tools.upstream.forms import parse_sources
    from narthex_server.tools.upstream.node import SourceError
    from narthex_server.tools.upstream.source import DEFAULT_CALL_TIMEOUT

    try:
        sources = parse_sources(config.upstreams(), str(config.mcp_config or "the demo's mcp-config"))
    except SourceError as error:
        raise SettingsError(error.message) from error

    def timed(source: "ServerSource") -> "ServerSource":
        own = source.call_timeout != DEFAULT_CALL_TIMEOUT
        call = source.call_timeout if own else config.tool_timeout
        return replace(
            source,
            call_timeout=call,
            start_timeout=config.upstream_start_timeout,
            max_bytes=config.max_message_bytes,
        )

    return [upstream(timed(source), config, sampler, reach) for source in sources]


def upstream(source: "ServerSource", config: ServerConfig, sampler: ModelSampler, reach: Reach) -> UpstreamServer:
    """One upstream, not started: by what it speaks, and with as many connections as its scope wants."""
    from narthex_server.tools.upstream.source import Narthex, OpenApi

    match source.transport:
        case Narthex() as other:
            from narthex_server.cascade.server import Cascade

            return Cascade(source, other, reach)
        case OpenApi() as api:
            from narthex_server.tools.upstream.openapi.server import OpenApiServer

            return OpenApiServer(source, api)
        case _:
            return mcp_upstream(source, config, sampler)


def mcp_upstream(source: "ServerSource", config: ServerConfig, sampler: ModelSampler) -> UpstreamServer:
    """One that speaks MCP and may remember its callers."""
    from narthex_server.tools.upstream.scoped import ScopedUpstream, ScopeLimits
    from narthex_server.tools.upstream.supervisor import Upstream

    scope = source.scope or ("shared" if config.api_key_file is None else "tenant")
    source = replace(source, scope=scope)
    if scope == "shared" or (scope == "tenant" and source.tenants.is_single):  # a tenant alone shares with itself
        return Upstream(source, sampler)
    return ScopedUpstream(scope, lambda: Upstream(source, sampler), ScopeLimits(**asdict(config.connections)))
