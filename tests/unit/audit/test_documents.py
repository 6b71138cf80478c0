"""What the documents say there is, is there, and the other way round."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from narthex_server.audit.auditor import Auditor
from narthex_server.config.audit import Audit
from narthex_server.config.tracing import Tracing
from narthex_server.metrics.audit import AuditMetrics
from prometheus_client import CollectorRegistry, generate_latest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(("page", "settings"), [("audit.md", Audit), ("tracing.md", Tracing)])
def test_every_setting_is_documented(page, settings):
    section = (DOCS / page).read_text("utf-8").split("## Settings\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert named == {one.name for one in fields(settings)}


def test_every_metric_is_documented(writer):
    registry, made = CollectorRegistry(), writer()
    AuditMetrics(registry, made, Auditor(made, "refuse"))
    served = {line.split()[0] for line in generate_latest(registry).decode().splitlines() if line[0] != "#"}
    section = (DOCS / "metrics.md").read_text("utf-8").split("## Audit\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(narthex_[a-z_]+)`", section)) == served
