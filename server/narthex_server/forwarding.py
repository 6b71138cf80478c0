"""From a configuration to the catalog: the upstreams, and what stands around every call of a tool."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from narthex.settings import SettingsError
from narthex.tracing.span import Tracer
from prometheus_client import CollectorRegistry

from narthex_server.audit.redaction import Redaction
from narthex_server.auditing import auditing
from narthex_server.config.server import ServerConfig
from narthex_server.metrics.tools import ToolMetrics, UpstreamMetrics
from narthex_server.pipelines.models import Models
from narthex_server.tools.acts import Acts, Unrecorded
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.model_sampler import ModelSampler
from narthex_server.tools.report import CatalogObserver
from narthex_server.tools.server import UpstreamServer
from narthex_server.tools.step import Step
from narthex_server.tools.traced import tracing
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.tools.upstream.source import ServerSource


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The catalog, not started and without native tools, and who is told of what is done to it."""

    catalog: Catalog
    acts: Acts


@asynccontextmanager
async def forwarding(
    config: ServerConfig, models: Models, registry: CollectorRegistry, tracer: Tracer
) -> AsyncIterator[Forwarding]:
    """Stops the catalog at the block's end; raises SettingsError before it."""
    async with auditing(config.audit, registry) as auditor:
        servers = await in_thread(upstreams, config, ModelSampler(models))
        observers: list[CatalogObserver] = [ToolMetrics(registry), *([auditor] if auditor else [])]
        shown = Redaction(config.audit.redact).written if config.otel.arguments else None
        steps: list[Step] = [tracing(tracer, shown)]
        catalog = Catalog(servers=servers, observers=observers, steps=steps, admission=auditor)
        UpstreamMetrics(registry, catalog.servers)
        try:
            yield Forwarding(catalog, auditor or Unrecorded())
        finally:
            await catalog.stop()


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
