import pytest
from narthex_server.audit.arguments import Arguments
from narthex_server.audit.chain import Chain
from narthex_server.audit.encoding import Encoding
from narthex_server.audit.log import AuditLog, Bounds
from narthex_server.audit.redaction import Redaction
from narthex_server.audit.writer import AuditWriter
from narthex_server.principal import Principal
from narthex_server.tools.report import CallReport
from narthex_server.tools.step import Trail
from narthex_server.tools.tool import CallContext

KEY = b"k" * 32


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "audit"


@pytest.fixture
def journal(folder):
    """Opens a record in the folder; whoever asks closes it, or the fixture does."""
    opened = []

    def open_log(key=b"", file_bytes=1 << 30, clock=None, **bounds):
        more = {"clock": clock} if clock else {}
        made = AuditLog(folder, Chain(key), Bounds(file_bytes, **bounds), **more)
        made.open()
        opened.append(made)
        return made

    yield open_log
    for made in opened:
        made.close()


@pytest.fixture
def writer(folder):
    """A writer that is not started."""

    def make(capacity=100, interval=0.0, keeping="digest", key=b""):
        log = AuditLog(folder, Chain(key), Bounds(1 << 30))
        return AuditWriter(log, Encoding(Arguments(keeping, Redaction())), capacity=capacity, interval=interval)

    return make


@pytest.fixture
def report():
    def make(asked="a__x", arguments=b'{"n":1}', outcome="ok", reason="", kind="tool"):
        context = CallContext(Principal("ann", "acme"), "r1")
        return CallReport(kind, asked, asked, "a", arguments, context, Trail(), 0.002, outcome, reason, 7)

    return make
