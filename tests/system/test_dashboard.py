"""What deploy/ has for Prometheus and Grafana, against a real Prometheus that looks at a working narthex."""

import json
import re
import runpy

import pytest
import yaml

from tests.system.command import done
from tests.system.conftest import ROOT, Stack
from tests.system.prometheus import DEPLOY, until

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "narthex.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['legendFormat']}")
    for panel in PANELS
    for target in panel["targets"]
]
VARIABLES = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
CHOSEN = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*", "$model": ".*"}
FAMILY = re.compile(r"^# TYPE (\S+) ", re.MULTILINE)


def as_grafana_asks(expr: str) -> str:
    for name, value in CHOSEN.items():
        expr = expr.replace(name, value)
    return expr


async def test_the_dashboard_is_what_its_rows_say():
    built = runpy.run_path(str(DEPLOY / "grafana" / "build.py"))
    assert (DEPLOY / "grafana" / "dashboards" / "narthex.json").read_text("utf-8") == built["text"]()


@pytest.mark.parametrize("expr", QUERIES)
async def test_each_query_of_the_dashboard_has_an_answer(worked: Stack, expr):
    async def answered():
        return await worked.prometheus.values(as_grafana_asks(expr))

    assert await until(answered, expr)


@pytest.mark.parametrize(
    "variable", [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"], ids=lambda one: one["name"]
)
async def test_each_variable_of_the_dashboard_has_choices(worked: Stack, variable):
    selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()

    async def choices():
        return await worked.prometheus.ask(f"label/{label}/values", **{"match[]": as_grafana_asks(selector)})

    found = await until(choices, variable["definition"])
    if variable["name"] == "job":
        assert found == ["narthex-bridge", "narthex-server"]
    if variable["name"] == "model":
        assert {"demo", "vectors"} <= set(found)


async def test_every_rule_is_evaluated_and_every_recorded_one_has_values(worked: Stack):
    async def evaluated():
        rules = await worked.prometheus.rules()
        return rules if all(rule["health"] == "ok" for rule in rules) else None

    recorded = {rule["name"] for rule in await until(evaluated, "rules") if rule["type"] == "recording"}
    listed = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    assert recorded == {rule["record"] for group in listed["groups"] for rule in group["rules"]}
    for name in recorded:

        async def known(name=name):
            return await worked.prometheus.values(name)

        await until(known, name)


@pytest.mark.parametrize("process", ["server", "bridge"])
async def test_names_and_units_are_as_prometheus_wants_them(worked: Stack, process):
    assert await done("promtool", "check", "metrics", given=await worked.page(process)) == ""


@pytest.mark.parametrize("process", ["server", "bridge"])
async def test_each_metric_has_its_place_in_the_documentation(worked: Stack, process):
    documented = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    families = set(FAMILY.findall(await worked.page(process)))
    assert len(families) > 20
    standard = re.compile(r"(process|python_gc)_\w+|python_info")
    unknown = {name for name in families if not standard.fullmatch(name) and not re.search(rf"`{name}\b", documented)}
    assert unknown == set()


@pytest.mark.parametrize("process", ["server", "bridge"])
async def test_scraping_is_cheap_and_holds_no_call_up(worked: Stack, process):
    lag = {"server": "narthex_event_loop_lag_seconds", "bridge": "narthex_bridge_event_loop_lag_seconds"}[process]
    times = [(await worked.client.get(worked.pages[process])).elapsed.total_seconds() for _ in range(40)]
    assert sorted(times)[20] < 0.5
    late = f"histogram_quantile(0.9, rate({lag}_bucket[1m]))"

    async def known():
        return await worked.prometheus.values(late)

    [(_, lateness)] = await until(known, late)
    assert lateness < 0.1
