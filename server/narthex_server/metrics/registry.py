"""Where metrics are collected and served."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from narthex.settings import Address
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)


def new_registry() -> CollectorRegistry:
    """A registry of this server alone, with the process's own metrics and the build's in it."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series of birth dates beside every counter doubles the page
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    build = Gauge("narthex_build_info", "Always 1; the version is the label.", ("version",), registry=made)
    build.labels(version("narthex")).set(1)
    return made


@contextmanager
def served(source: CollectorRegistry, address: Address) -> Iterator[int]:
    """Serves /metrics in a thread of its own; gives the port. Raises OSError where the address is taken."""
    server, thread = start_http_server(address.port, address.host, source)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
