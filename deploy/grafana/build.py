"""Makes dashboards/narthex.json of panels.yaml: `python deploy/grafana/build.py`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
OUT = HERE / "dashboards" / "narthex.json"

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = {"@on": 'job=~"$job",instance=~"$instance"', "@model": '@on,model_name=~"$model"'}
PROCESSES = '{__name__=~"narthex_build_info|narthex_bridge_sessions"}'
VARIABLES = (
    ("job", f"label_values({PROCESSES}, job)"),
    ("instance", f"label_values({PROCESSES}, instance)".replace("}", ',job=~"$job"}')),
    ("model", "label_values(narthex_model_state{@on}, model_name)"),
)
ACROSS, WIDTH, HEIGHT = 3, 8, 8
SHARES = (0.5, 0.95, 0.99)


def text() -> str:
    """The dashboard in JSON."""
    rows = yaml.safe_load((HERE / "panels.yaml").read_text("utf-8"))
    made = {
        "uid": "narthex",
        "title": "narthex",
        "tags": ["narthex"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}, *variables()]},
        "panels": [{"id": number} | panel for number, panel in enumerate(panels(rows), 1)],
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def variables() -> Iterator[dict[str, Any]]:
    for name, query in VARIABLES:
        yield {
            "name": name,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": chosen(query), "refId": name},
            "definition": chosen(query),
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def panels(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    top = 0
    for row in rows:
        place = {"x": 0, "y": top, "w": ACROSS * WIDTH, "h": 1}
        yield {"type": "row", "title": row["row"], "collapsed": False, "panels": [], "gridPos": place}
        for at, given in enumerate(row["panels"]):
            line, column = divmod(at, ACROSS)
            place = {"x": column * WIDTH, "y": top + 1 + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            yield {"title": given["title"], "description": given["what"], "gridPos": place} | drawn(given)
        top += 1 + -(-len(row["panels"]) // ACROSS) * HEIGHT


def drawn(given: dict[str, Any]) -> dict[str, Any]:
    heat = "heat" in given
    unit = given.get("unit", "short" if "queries" in given else "s")
    targets = [
        {
            "refId": chr(ord("A") + at),
            "datasource": DATASOURCE,
            "expr": chosen(expr),
            "legendFormat": legend,
            "range": True,
            "format": "heatmap" if heat else "time_series",
        }
        for at, (expr, legend) in enumerate(queries(given))
    ]
    return {"datasource": DATASOURCE, "targets": targets} | (heatmap(unit) if heat else timeseries(unit))


def queries(given: dict[str, Any]) -> Iterator[tuple[str, str]]:
    on, by = given.get("on", "@model"), given.get("by", "")
    match given:
        case {"latency": histogram}:
            for share in SHARES:
                yield quantile(share, histogram, on), f"p{share * 100:g}"
        case {"tail": histogram}:
            yield quantile(given.get("share", 0.95), histogram, on, f", {by}"), f"{{{{{by}}}}}"
        case {"heat": histogram}:
            yield f"sum by (le) (increase({histogram}_bucket{{{on}}}[$__rate_interval]))", "{{le}}"
        case _:
            yield from given["queries"]


def quantile(share: float, histogram: str, on: str, by: str = "") -> str:
    return f"histogram_quantile({share}, sum by (le{by}) (rate({histogram}_bucket{{{on}}}[$__rate_interval])))"


def chosen(expr: str) -> str:
    return expr.replace("@model", CHOSEN["@model"]).replace("@on", CHOSEN["@on"])


def heatmap(unit: str) -> dict[str, Any]:
    options = {"calculate": False, "yAxis": {"unit": unit}, "color": {"mode": "scheme", "scheme": "Oranges"}}
    return {"type": "heatmap", "options": options, "fieldConfig": {"defaults": {}, "overrides": []}}


def timeseries(unit: str) -> dict[str, Any]:
    custom = {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    most = {"max": 1} if unit == "percentunit" else {}
    return {
        "type": "timeseries",
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": custom} | most, "overrides": []},
        "options": {"legend": {"placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    }


if __name__ == "__main__":
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text(), "utf-8")
