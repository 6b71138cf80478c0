"""Whether and where traces are sent, the same for server and bridge."""

import importlib.util
import os
from dataclasses import dataclass

from narthex.settings import SettingsError, option
from narthex.tracing.span import PassOn, Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Otel:
    """Traces by OTLP over gRPC. What is not said here is asked of OpenTelemetry's own variables (OTEL_*)."""

    endpoint: str = option(
        "", "where traces are sent, such as http://127.0.0.1:4317; nowhere without it", metavar="URL"
    )
    service_name: str = option("", "the name of this service in traces", metavar="NAME")
    sample_ratio: float = option(
        1.0, "share of the traces begun here that are kept; who is called does as the caller did", minimum=0
    )

    def __post_init__(self) -> None:
        if self.sample_ratio > 1:
            raise SettingsError(f"otel.sample_ratio: {self.sample_ratio:g} is above 1")
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise SettingsError(f"otel.endpoint: {self.endpoint!r} does not begin with http:// or https://")

    def tracer(self, service: str) -> Tracer:
        """One that exports where there is an endpoint; `service` is the name without another.

        Raises SettingsError where the extra that it needs is not installed.
        """
        if not self.endpoint and not any(os.environ.get(name) for name in _ENDPOINTS):
            return PassOn()
        if importlib.util.find_spec("opentelemetry.sdk") is None:
            raise SettingsError("otel.endpoint: traces need the extra; try: pip install 'narthex[otel]'")
        from narthex.tracing.export import Exporting

        return Exporting(self.endpoint, self.service_name, service, self.sample_ratio)
