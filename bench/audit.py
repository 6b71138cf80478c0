"""What the audit record costs a call, and what tracing does.

    python -m bench audit [--calls 20000] [--rounds 5]

A catalog with one native tool is called in this process, eight calls at a time, by turns without an observer, with
the record (of digests, of redacted arguments, with a key) and with exported spans that nobody takes. `loop` is the time
that `enter` and `on_call` take on the event loop, on average and at worst in a thousand; CPU is that of the whole
process, the writer's thread included.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

from narthex.tracing.span import PassOn
from narthex_server.audit.arguments import Arguments, Keeping
from narthex_server.audit.auditor import Auditor
from narthex_server.audit.chain import Chain
from narthex_server.audit.encoding import Encoding
from narthex_server.audit.log import AuditLog, Bounds
from narthex_server.audit.redaction import Redaction
from narthex_server.audit.writer import AuditWriter
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.report import CallReport
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult
from narthex_server.tools.traced import tracing

ARGUMENTS = b'{"city": "Oslo", "days": 3, "units": "metric", "query": "what the weather will be like"}'
AT_ONCE = 8


class Echo:
    tool = Tool("echo", "", "", b'{"type":"object"}')

    async def call(self, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
        yield ToolResult(arguments)


@dataclass
class Timed:
    """An auditor, with how long it holds the event loop."""

    auditor: Auditor
    writer: AuditWriter
    seconds: list[float] = field(default_factory=list)

    def enter(self) -> None:
        started = time.perf_counter()
        self.auditor.enter()
        self.seconds.append(time.perf_counter() - started)

    def on_call(self, report: CallReport) -> None:
        started = time.perf_counter()
        self.auditor.on_call(report)
        self.seconds[-1] += time.perf_counter() - started


@contextmanager
def recording(keeping: Keeping, key: bytes = b"") -> Iterator[Timed]:
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder), Chain(key), Bounds(1 << 30))
        writer = AuditWriter(log, Encoding(Arguments(keeping, Redaction())), capacity=1 << 20, interval=0.05)
        writer.start()
        yield Timed(Auditor(writer, "refuse"), writer)


async def rate(catalog: Catalog, calls: int, end: Callable[[], None] = lambda: None) -> tuple[float, float]:
    """Calls a second, and seconds of CPU for each, with what `end` takes."""

    async def caller() -> None:
        for _ in range(calls // AT_ONCE):
            async for _ in catalog.call("echo", ARGUMENTS, CallContext(LOCAL, "0123456789abcdef")):
                pass

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    taken = time.perf_counter() - started
    end()
    return calls / taken, (time.process_time() - cpu) / calls


def exported() -> Catalog:
    from narthex.tracing.export import Exporting

    return Catalog([Echo()], steps=[tracing(Exporting("http://127.0.0.1:9", "", "bench", 1.0))])


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    records = {"digest": ("digest", b""), "digest, key": ("digest", b"k" * 32), "redacted": ("redacted", b"")}
    rates: dict[str, list[tuple[float, float]]] = {}
    loop: dict[str, list[float]] = {}
    traced = exported()
    for _ in range(asked.rounds):
        rates.setdefault("nothing", []).append(await rate(Catalog([Echo()]), asked.calls))
        passing = Catalog([Echo()], steps=[tracing(PassOn())])
        rates.setdefault("traces passed on", []).append(await rate(passing, asked.calls))
        for name, (keeping, key) in records.items():
            with recording(keeping, key) as timed:
                catalog = Catalog([Echo()], observers=[timed], admission=timed)
                rates.setdefault(name, []).append(await rate(catalog, asked.calls, timed.writer.stop))
                loop.setdefault(name, []).extend(timed.seconds)
        rates.setdefault("spans", []).append(await rate(traced, asked.calls))
    print(f"{'':18} {'calls/s':>9} {'CPU us/call':>12} {'loop us':>8} {'p99.9 us':>9}")
    for name, found in rates.items():
        line = f"{name:18} {median(r for r, _ in found):9.0f} {1e6 * median(c for _, c in found):12.1f}"
        if taken := sorted(loop.get(name, ())):
            line += f" {1e6 * mean(taken):8.1f} {1e6 * taken[int(0.999 * len(taken))]:9.1f}"
        print(line)


if __name__ == "__main__":
    asyncio.run(main())
