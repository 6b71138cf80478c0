import asyncio
import json
import threading

import pytest
from narthex.tracing.context import TRACE, TraceContext
from narthex_server.audit.auditor import Auditor
from narthex_server.audit.chain import Chain
from narthex_server.audit.file import AuditFile, FileFailed, files
from narthex_server.audit.verification import Verification
from narthex_server.audit.writer import MAX_PENDING_BYTES
from narthex_server.errors import NotFound, Unavailable
from narthex_server.principal import Principal
from narthex_server.tools.acts import acting
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.tool import CallContext, Tool


def records(folder):
    found = []
    for path in files(folder):
        file = AuditFile.open(path)
        found += [json.loads(stored.body) for stored in file.records()]
        file.close()
    return found


class Disk:
    """Stands before a record; fails until it is mended."""

    def __init__(self, journal):
        self._journal = journal
        self.mended = threading.Event()
        self.tried_again = threading.Event()
        self._tries = 0
        self.open, self.close = journal.open, journal.close

    def append(self, bodies):
        if not self.mended.is_set():
            self._tries += 1
            if self._tries == 2:
                self.tried_again.set()
            raise FileFailed("no space left")
        self._journal.append(bodies)


@pytest.fixture
def broken(writer, monkeypatch):
    """A started writer whose disk fails, and the disk."""
    monkeypatch.setattr("narthex_server.audit.writer.RETRY_S", 0.01)
    made = writer(capacity=3)
    made._log = Disk(made._log)
    made.start()
    yield made, made._log
    made._log.mended.set()
    made.stop()


async def test_a_record_says_who_asked_for_what_and_how_it_ended(folder, writer, report):
    made = writer()
    made.start()
    auditor = Auditor(made, "refuse")
    TRACE.set(TraceContext("ab" * 16, "cd" * 8, 1))
    auditor.on_call(report())
    auditor.on_call(report("nothing", b"{", "not_found", "TOOL_NOT_FOUND"))
    auditor.on_call(report("file:///x", {}, kind="resource"))
    await auditor.stop()
    first, second, third = records(folder)
    assert first.pop("at").endswith("Z") and first.pop("digest").startswith("sha256:")
    assert first == {
        "kind": "tool", "tenant": "acme", "key": "ann", "request": "r1", "trace": "ab" * 16, "server": "a",
        "name": "a__x", "outcome": "ok", "ms": 2.0, "in": 7, "out": 7,
    }  # fmt: skip
    assert (second["outcome"], second["reason"]) == ("not_found", "TOOL_NOT_FOUND")
    assert third["kind"] == "resource"


async def test_a_record_says_what_the_policy_and_the_cache_did(folder, writer, report):
    made = writer()
    made.start()
    auditor = Auditor(made, "refuse")
    denied, answered = report(outcome="denied", reason="POLICY_DENIED"), report()
    denied.trail.rule, answered.trail.rule, answered.trail.cached = "no-deletes", "reads", True
    auditor.on_call(denied)
    auditor.on_call(answered)
    await auditor.stop()
    first, second = records(folder)
    assert (first["outcome"], first["reason"], first["rule"]) == ("denied", "POLICY_DENIED", "no-deletes")
    assert "cached" not in first
    assert (second["outcome"], second["rule"], second["cached"]) == ("ok", "reads", True)


async def test_a_catalog_records_what_is_refused_as_well(folder, writer):
    made = writer()
    made.start()
    auditor = Auditor(made, "refuse")
    catalog = Catalog(observers=[auditor], admission=auditor)
    context = CallContext(Principal("ann", "acme"), "r1")
    with pytest.raises(NotFound):
        await anext(catalog.call("x" * 1000, b"{}", context))
    with pytest.raises(NotFound):
        await catalog.read("file:///x", "", context)
    with pytest.raises(NotFound):
        await catalog.fill("p", {}, context)
    with pytest.raises(NotFound), acting(auditor, "upstream.remove", "a", context.principal):
        await catalog.roster.remove("a")
    await auditor.stop()
    assert [(one["kind"], one["outcome"]) for one in records(folder)] == [
        ("tool", "not_found"), ("resource", "not_found"), ("prompt", "not_found"), ("act", "error"),
    ]  # fmt: skip
    assert len(records(folder)[0]["asked"]) == 256
    assert records(folder)[3]["verb"] == "upstream.remove"


async def test_nothing_runs_that_cannot_be_recorded(folder, broken, report):
    writer, disk = broken
    auditor = Auditor(writer, "refuse")
    auditor.enter()
    auditor.on_call(report("before"))
    await asyncio.to_thread(disk.tried_again.wait)
    ran = []
    catalog = Catalog([_Native(ran)], observers=[auditor], admission=auditor)
    with pytest.raises(Unavailable) as refused:
        await anext(catalog.call("one", b"{}", CallContext(Principal("ann", "acme"), "r1")))
    assert (refused.value.reason, ran, auditor.refused) == ("AUDIT_UNAVAILABLE", [], 1)
    disk.mended.set()
    await auditor.stop()
    assert [(one["asked" if "asked" in one else "name"], one["outcome"]) for one in records(folder)] == [
        ("before", "ok"), ("one", "unavailable"),
    ]  # fmt: skip


async def test_what_is_refused_meanwhile_does_not_fill_the_memory(folder, broken, report):
    """Neither acts that anybody may try, nor calls that a model makes up, nor names of megabytes."""
    made, disk = broken
    auditor = Auditor(made, "refuse")
    catalog = Catalog(observers=[auditor], admission=auditor)
    auditor.on_call(report())
    await asyncio.to_thread(disk.tried_again.wait)
    eve = Principal("eve", "acme")
    for _ in range(50):
        with pytest.raises(Unavailable), acting(auditor, "upstream.add", "x" * 100, eve):
            auditor.enter()
        catalog.refused("made_up", b"{}", CallContext(eve, "r"), NotFound("no"))
    assert made.pending <= 3 and made.lost
    disk.mended.set()
    await auditor.stop()
    assert all(one.get("reason") == "AUDIT_UNAVAILABLE" for one in records(folder) if one.get("key") == "eve")


@pytest.mark.parametrize(
    "large", [{"asked": "x" * MAX_PENDING_BYTES}, {"arguments": {"a": "x" * MAX_PENDING_BYTES}, "kind": "prompt"}]
)
def test_a_queue_is_full_of_long_names_and_texts_too(writer, report, large):
    made = writer()
    Auditor(made, "continue").on_call(report(**large))
    assert made.full


@pytest.mark.parametrize("keeping", ["off", "digest", "redacted", "full"])
async def test_names_are_kept_short_and_without_credentials(folder, writer, report, keeping):
    made = writer(keeping=keeping)
    made.start()
    auditor = Auditor(made, "refuse")
    for uri in ("db://ann:hunter2@host/x", "file:///" + "x" * 1000):
        auditor.on_call(report(asked=uri, arguments={}, kind="resource"))
    await auditor.stop()
    first, second = records(folder)
    assert ("hunter2" in json.dumps(first)) == (keeping == "full")
    assert len(second["name"]) == 256 and second["name"].startswith("file:///x")


async def test_calls_go_on_where_that_is_wanted_and_the_record_says_what_it_lost(folder, broken, report):
    writer, disk = broken
    auditor = Auditor(writer, "continue")
    for number in range(10):
        auditor.enter()
        auditor.on_call(report(f"t{number}"))
    assert writer.lost == 7
    disk.mended.set()
    await auditor.stop()
    found = records(folder)
    assert [one.get("name") for one in found if one["kind"] == "tool"] == ["t0", "t1", "t2"]
    assert sum(one["lost"] for one in found if one["kind"] == "gap") == 7
    assert Verification({"": Chain()}).run(folder).fault is None


async def test_a_record_that_cannot_be_made_is_still_there(folder, writer, report, caplog):
    made = writer()
    made.start()
    auditor = Auditor(made, "refuse")
    auditor.on_call(report("\ud800"))
    await auditor.stop()
    (found,) = records(folder)
    assert (found["kind"], found["key"]) == ("unreadable", "ann")


class _Native:
    def __init__(self, ran):
        self.tool = Tool("one", "", "", b"{}")
        self._ran = ran

    async def call(self, arguments, context):
        self._ran.append(arguments)
        yield
