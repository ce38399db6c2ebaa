"""The dashboard and the alerts ask for metrics that there are."""

from __future__ import annotations

import json
import re

import dashboard
import manifests
import yaml
from dashboard import Panel


def test_panels_ask_for_metrics_that_there_are() -> None:
    assert dashboard.problems(dashboard.ROWS) == []


def test_what_is_wrong_with_panels_is_said() -> None:
    rows = {"one": [Panel("x", "", "short", {"": "sum({{no_such_total}})"})]}
    found = dashboard.problems(rows)
    assert "a panel asks for no_such_total, which no sidecar has" in found
    assert any(text.startswith("no panel shows builds_total") for text in found)


def test_the_file_asks_in_full_names() -> None:
    made = json.loads(dashboard.text())
    known = {dashboard.PREFIX + name for name in dashboard.series_names()}
    asked = [one["expr"] for panel in made["panels"] for one in panel.get("targets", [])]
    assert asked
    for text in asked:
        names = re.findall(r"[a-z_]*buildsvc[a-z_]+", text)
        assert names
        assert set(names) <= known
        assert text.count("(") == text.count(")")
        assert text.count("{") == text.count("}")


def test_panels_do_not_lie_upon_each_other() -> None:
    places: set[tuple[int, int]] = set()
    for panel in json.loads(dashboard.text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & places
        assert place["x"] + place["w"] <= 24
        places |= cells


def test_alerts_ask_for_metrics_that_there_are() -> None:
    alerts = yaml.safe_load((manifests.CHART / "files/alerts.yaml").read_text())
    known = {dashboard.PREFIX + name for name in dashboard.series_names()}
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    for rule in rules:
        names = re.findall(r"buildsvc_[a-z_]+", rule["expr"])
        assert names
        assert set(names) <= known, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}
