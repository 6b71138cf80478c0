"""From a configuration to the catalog: the upstreams, and what stands around every call of a tool."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from narthex.settings import SettingsError
from narthex.tracing.span import Tracer
from prometheus_client import CollectorRegistry

from narthex_server.audit.auditor import Auditor
from narthex_server.audit.redaction import Redaction
from narthex_server.config.cache import CacheSettings
from narthex_server.config.document import parse_document
from narthex_server.config.server import DELEGATE_TOKEN_VARIABLE, ServerConfig
from narthex_server.lot.lot import Lot
from narthex_server.metrics.catalog import MisfitMetrics, OfferMetrics
from narthex_server.metrics.policy import PolicyMetrics
from narthex_server.metrics.results import CacheMetrics
from narthex_server.metrics.tools import ToolMetrics, UpstreamMetrics
from narthex_server.metrics.upstreams import ProcessMetrics, ReloadMetrics, VitalsMetrics
from narthex_server.pipelines.models import Models
from narthex_server.reloading import Reloads
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.acts import Acts, Unrecorded
from narthex_server.tools.admission.pools import UpstreamPools
from narthex_server.tools.admission.step import AdmissionStep
from narthex_server.tools.catalog import Catalog, Companion
from narthex_server.tools.fleet import Fleet
from narthex_server.tools.model_sampler import ModelSampler
from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.policy.live import LivePolicy
from narthex_server.tools.policy.step import PolicyStep
from narthex_server.tools.reach import Reach
from narthex_server.tools.report import CatalogObserver
from narthex_server.tools.result_check import ResultCheck
from narthex_server.tools.results.cache import CacheLimits, ResultCache
from narthex_server.tools.results.rule import Keeping
from narthex_server.tools.results.step import CacheStep, Holder
from narthex_server.tools.search.searching import Searching
from narthex_server.tools.server import Scope, UpstreamServer
from narthex_server.tools.step import Step
from narthex_server.tools.traced import tracing
from narthex_server.tools.visibility import EVERYTHING, Visibility
from narthex_server.waiting import limits
from narthex_server.watched_file import WatchedFile
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.tools.upstream.source import ServerSource


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The catalog, not started and without native tools; its upstreams; and their file, where there is one.

    `acts` are to be told of what is done to them.
    """

    catalog: Catalog
    fleet: Fleet
    reloads: Reloads | None
    acts: Acts


async def forwarding(
    config: ServerConfig,
    models: Models,
    registry: CollectorRegistry,
    reach: Reach,
    tracer: Tracer,
    auditor: Auditor | None,
    lot: Lot,
    locks: Locks,
) -> Forwarding:
    """All that forwarding is made of; raises SettingsError."""
    sampler = ModelSampler(models)
    waiting = limits(config.lot, config.lot.calls_waiting)
    pools = UpstreamPools(lot, waiting, config.lot.call_memory, lambda source: calls_of(source, config))

    async def build(source: "ServerSource") -> UpstreamServer:
        return await in_thread(upstream, confined(bounded(source, config), config), config, sampler, reach, locks)

    file = WatchedFile(config.mcp_config) if config.mcp_config else None
    sources = await in_thread(lambda: configured(config, None if file is None else _read(file)))
    servers = [await build(source) for source in sources]
    catalog = await _catalog(config, servers, registry, tracer, auditor, pools, locks)
    fleet = Fleet(catalog.roster, sources, build, config.upstream.drain, pools, locks)
    acts = auditor or Unrecorded()
    if file is None:
        return Forwarding(catalog, fleet, None, acts)
    observer = ReloadMetrics(registry)
    reloads = Reloads(file, lambda content: configured(config, content), fleet, observer, acts, config.upstream.follow)
    return Forwarding(catalog, fleet, reloads, acts)


async def _catalog(
    config: ServerConfig,
    servers: Sequence[UpstreamServer],
    registry: CollectorRegistry,
    tracer: Tracer,
    auditor: Auditor | None,
    pools: UpstreamPools,
    locks: Locks,
) -> Catalog:
    """The catalog with the steps around its calls, the outermost first."""
    observers: list[CatalogObserver] = [ToolMetrics(registry), *([auditor] if auditor else [])]
    written = Redaction(config.audit.redact).written if config.otel.arguments else None
    steps: list[Step] = [tracing(tracer, written)]  # which sees what the others note about a call
    companions: list[Companion] = []
    visibility: Visibility = EVERYTHING
    if config.policy is not None:
        metrics = PolicyMetrics(registry)
        policy = await in_thread(LivePolicy, WatchedFile(config.policy), metrics)
        steps.append(PolicyStep(policy, metrics, lambda server: catalog.roster.working_directory(server)))
        companions.append(policy)
        visibility = policy
    if config.cache.enabled:
        steps.append(_caching(config.cache, registry, lambda server: catalog.roster.get(server)))
    steps.append(AdmissionStep(pools))  # kept results do not wait
    shown = config.catalog
    if shown.results != "off":
        steps.append(ResultCheck(shown.results, MisfitMetrics(registry).on_misfit))
    inspection = Inspection(shown.scan)
    catalog = Catalog(
        servers=servers,
        observers=observers,
        steps=steps,
        visibility=visibility,
        companions=companions,
        searching=Searching(shown.search, shown.search_above, shown.lazy),
        inspection=inspection,
        admission=auditor,
        locks=locks,
    )
    UpstreamMetrics(registry, catalog.servers)
    VitalsMetrics(registry, catalog.roster.vitals)
    ProcessMetrics(registry, catalog.roster.vitals)
    OfferMetrics(registry, lambda: catalog.renamed, lambda: inspection.suspects)
    return catalog


def _caching(settings: CacheSettings, registry: CollectorRegistry, server: Callable[[str], Holder | None]) -> Step:
    metrics = CacheMetrics(registry)
    cache = ResultCache(CacheLimits(settings.max_bytes, settings.max_entries), metrics.on_eviction)
    metrics.watch(cache)
    return CacheStep(Keeping(settings.read_only, settings.ttl), cache, server, metrics.on_lookup)


def configured(config: ServerConfig, content: bytes | None) -> Sequence["ServerSource"]:
    """The upstreams that the content of the file names, or the demo's; raises SettingsError."""
    from narthex_server.tools.upstream.forms import parse_sources
    from narthex_server.tools.upstream.node import SourceError

    path = config.mcp_config
    document = config.upstreams() if content is None or path is None else parse_document(content, path)
    try:
        return parse_sources(document, str(path or "the demo's mcp-config"), os.environ)
    except SourceError as error:
        raise SettingsError(error.message) from error


def bounded(source: "ServerSource", config: ServerConfig) -> "ServerSource":
    """With the server's own limits, where the source has none."""
    call = config.tool_timeout if source.call_timeout is None else source.call_timeout
    start, size = config.upstream_start_timeout, config.max_message_bytes
    return replace(source, call_timeout=call, start_timeout=start, max_bytes=size)


def confined(source: "ServerSource", config: ServerConfig) -> "ServerSource":
    """With the usual limits and sandbox of a process, where the source has none of its own."""
    from narthex_server.tools.upstream.limits import Limits
    from narthex_server.tools.upstream.source import Process

    process, own = source.transport, config.upstream
    if not isinstance(process, Process):
        return source
    usual = Limits(own.memory_mb, own.cpu_secs, own.open_files, own.processes, own.file_mb)
    limits = None if process.limits is None else process.limits.over(usual)
    sandbox = replace(process.sandbox, mode=process.sandbox.mode or own.sandbox)
    return replace(source, transport=replace(process, limits=limits, sandbox=sandbox))


def upstream(
    source: "ServerSource", config: ServerConfig, sampler: ModelSampler, reach: Reach, locks: Locks = UNMETERED
) -> UpstreamServer:
    """One upstream, not started: by what it speaks; what that needs is imported only where there are upstreams."""
    from narthex_server.tools.upstream.source import Narthex, OpenApi

    match source.transport:
        case Narthex() as other:
            from narthex_server.cascade.server import Cascade

            return Cascade(source, other, reach)
        case OpenApi() as api:
            from narthex_server.tools.upstream.openapi.server import OpenApiServer

            return OpenApiServer(source, api, locks)
        case _:
            return mcp_upstream(source, config, sampler, locks)


def mcp_upstream(source: "ServerSource", config: ServerConfig, sampler: ModelSampler, locks: Locks) -> UpstreamServer:
    """One that speaks MCP, and so may remember its callers: with as many connections as its scope wants."""
    from narthex_server.tools.upstream.scoped import ScopedUpstream, ScopeLimits
    from narthex_server.tools.upstream.supervisor import Upstream

    scope = scope_of(source, config)
    source = replace(source, scope=source.scope or default_scope(config))
    if scope == "shared":
        return Upstream(source, sampler, locks)
    own = config.connections
    limits = ScopeLimits(own.per_upstream, own.per_tenant, own.tenant_idle, own.session_idle)
    return ScopedUpstream(scope, lambda: Upstream(source, sampler, locks), limits)


def scope_of(source: "ServerSource", config: ServerConfig) -> Scope:
    """Who shares a connection in effect: a tenant that is alone shares with itself."""
    scope = source.scope or default_scope(config)
    return "shared" if scope == "tenant" and source.tenants.is_single else scope


def calls_of(source: "ServerSource", config: ServerConfig) -> int:
    """How many calls an upstream works on at once, over all of its connections."""
    from narthex_server.tools.upstream.source import Narthex, OpenApi

    alone = isinstance(source.transport, Narthex | OpenApi) or scope_of(source, config) == "shared"
    return source.concurrency * (1 if alone else config.connections.per_upstream)


def default_scope(config: ServerConfig) -> Scope:
    """Tenants share nothing where callers can be told apart: by keys, or by a bridge that speaks for them."""
    apart = config.api_key_file is not None or DELEGATE_TOKEN_VARIABLE in os.environ
    return "tenant" if apart and not config.connections.single_tenant else "shared"


def _read(file: WatchedFile) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise SettingsError(f"{file.path}: cannot be read: {error.strerror}") from error
