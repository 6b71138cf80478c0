"""Metrics of the audit record."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from narthex_server.audit.auditor import Auditor
from narthex_server.audit.writer import AuditWriter


class AuditMetrics(Collector):
    """How the record is, read when Prometheus asks."""

    def __init__(self, target: CollectorRegistry, writer: AuditWriter, auditor: Auditor) -> None:
        self._writer = writer
        self._auditor = auditor
        target.register(self)

    def collect(self) -> Iterable[Metric]:
        writer = self._writer
        for name, text, value in (
            ("narthex_audit_records", "Records written.", writer.written),
            ("narthex_audit_lost", "Records that were lost.", writer.lost),
            ("narthex_audit_refused", "Calls refused as they could not be recorded.", self._auditor.refused),
        ):
            yield CounterMetricFamily(name, text, value)
        yield GaugeMetricFamily("narthex_audit_pending", "Records that wait to be written.", writer.pending)
        yield GaugeMetricFamily("narthex_audit_failing", "1 while nothing can be written.", float(writer.failing))
