"""From a configuration to the catalog: the upstreams, and what stands around every call of a tool."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from narthex.settings import SettingsError
from prometheus_client import CollectorRegistry

from narthex_server.config.document import parse_document
from narthex_server.config.server import ServerConfig
from narthex_server.metrics.tools import ToolMetrics, UpstreamMetrics
from narthex_server.metrics.upstreams import ReloadMetrics, VitalsMetrics
from narthex_server.pipelines.models import Models
from narthex_server.reloading import Reloads
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.fleet import Fleet
from narthex_server.tools.model_sampler import ModelSampler
from narthex_server.tools.server import UpstreamServer
from narthex_server.watched_file import WatchedFile
from narthex_server.worker import in_thread

if TYPE_CHECKING:
    from narthex_server.tools.upstream.source import ServerSource


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The catalog, not started and without native tools; its upstreams; and their file, where there is one."""

    catalog: Catalog
    fleet: Fleet
    reloads: Reloads | None


async def forwarding(config: ServerConfig, models: Models, registry: CollectorRegistry) -> Forwarding:
    """All that forwarding is made of; raises SettingsError."""
    sampler = ModelSampler(models)

    async def build(source: "ServerSource") -> UpstreamServer:
        (server,) = await in_thread(upstreams, [timed(source, config)], sampler)
        return server

    file = WatchedFile(config.mcp_config) if config.mcp_config else None
    sources = await in_thread(configured, config, None if file is None else _read(file))
    timely = [timed(source, config) for source in sources]
    catalog = Catalog(servers=await in_thread(upstreams, timely, sampler), observer=ToolMetrics(registry))
    UpstreamMetrics(registry, catalog.servers)
    VitalsMetrics(registry, catalog.vitals)
    fleet = Fleet(catalog, sources, build, config.upstream.drain)
    if file is None:
        return Forwarding(catalog, fleet, None)
    observer = ReloadMetrics(registry)
    reloads = Reloads(file, lambda content: configured(config, content), fleet, observer, config.upstream.follow)
    return Forwarding(catalog, fleet, reloads)


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


def timed(source: "ServerSource", config: ServerConfig) -> "ServerSource":
    """With the server's own limits of time, where the source has none."""
    from narthex_server.tools.upstream.source import DEFAULT_CALL_TIMEOUT

    own = source.call_timeout != DEFAULT_CALL_TIMEOUT
    call = source.call_timeout if own else config.tool_timeout
    return replace(source, call_timeout=call, start_timeout=config.upstream_start_timeout)


def upstreams(sources: Sequence["ServerSource"], sampler: ModelSampler) -> Sequence[UpstreamServer]:
    """Upstreams that are not started; the client that they need is imported only where there are any."""
    if not sources:
        return ()
    from narthex_server.tools.upstream.supervisor import Upstream

    return [Upstream(source, sampler) for source in sources]


def _read(file: WatchedFile) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise SettingsError(f"{file.path}: cannot be read: {error.strerror}") from error
