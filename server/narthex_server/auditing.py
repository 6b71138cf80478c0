"""From settings to a running audit record, and back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from narthex.settings import SettingsError
from prometheus_client import CollectorRegistry

from narthex_server.audit.arguments import Arguments
from narthex_server.audit.auditor import Auditor
from narthex_server.audit.chain import Chain
from narthex_server.audit.encoding import Encoding
from narthex_server.audit.file import FileFailed
from narthex_server.audit.log import AuditLog, Bounds
from narthex_server.audit.redaction import Redaction
from narthex_server.audit.writer import AuditWriter
from narthex_server.config.audit import Audit
from narthex_server.metrics.audit import AuditMetrics
from narthex_server.worker import in_thread


@asynccontextmanager
async def auditing(config: Audit, registry: CollectorRegistry) -> AsyncIterator[Auditor | None]:
    """The auditor within the block, whose end writes all that is left; None where nothing is to be recorded.

    Raises SettingsError where the record cannot be written to begin with.
    """
    if not config.enabled:
        yield None
        return
    bounds = Bounds(config.max_file_bytes, config.max_file_days, config.keep_days)
    journal = AuditLog(config.path, Chain.of_file(config.key_file), bounds)
    encoding = Encoding(Arguments(config.arguments, Redaction(config.redact)))
    writer = AuditWriter(journal, encoding, capacity=config.max_pending, interval=config.interval)
    try:
        await in_thread(writer.start)
    except FileFailed as error:
        raise SettingsError(f"audit.path: {error}") from error
    auditor = Auditor(writer, config.on_failure)
    AuditMetrics(registry, writer, auditor)
    try:
        yield auditor
    finally:
        await auditor.stop()
