"""The Grafana dashboard of build pods, which tools/manifests.py writes into the chart.

A panel names metrics as ``docs/operations.md`` does, and what is asked of Prometheus is made of
them: a metric that the sidecar does not have, or that no panel shows, is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.metrics_core import Metric

from sidecar.metrics import StatusCollector
from sidecar.status import Generation, Status

PREFIX = "buildsvc_sidecar_"

#: What is for a look at one pod, whose own page shows it better.
NOT_SHOWN = frozenset(
    {"info", "ready", "phase_seconds", "restored_generation", "published_generation"}
    | {"published_generation_age_seconds", "store_operations_in_flight"}
)

_WIDTH, _HEIGHT = 8, 7
_NAME = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Panel:
    """``asks`` maps legends to what is asked; ``{{name}}`` stands for a metric of a build pod."""

    title: str
    text: str
    unit: str
    asks: dict[str, str]
    kind: str = "timeseries"


def _increase(metric: str, *labels: str) -> str:
    return f"sum{_by(labels)} (increase({{{{{metric}}}}}[$__rate_interval]))"


def _rate(metric: str, *labels: str) -> str:
    return f"sum{_by(labels)} (rate({{{{{metric}}}}}[$__rate_interval]))"


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


ROWS: Mapping[str, Sequence[Panel]] = {
    "Builds": (
        Panel(
            "Builds",
            "Those that ended.",
            "short",
            {"{{outcome}}": _increase("builds_total", "outcome")},
        ),
        Panel("Build pods by phase", "", "short", {"{{phase}}": "sum by (phase) ({{phase}})"}),
        Panel(
            "Cache lost under a build",
            "The case in which a build has to run again, and pods whose advice is that now.",
            "short",
            {
                "lost": _increase("roots_lost_total"),
                "mended": _increase("roots_mended_total"),
                "daemon ended": _increase("daemon_exits_total"),
                "run again": "sum({{run_again}})",
            },
        ),
    ),
    "Cache": (
        Panel(
            "Cold starts",
            "Why a daemon had no cache.",
            "short",
            {"{{reason}}": _increase("cold_starts_total", "reason")},
        ),
        Panel(
            "Passed over",
            "Keys without a generation, and generations that were not used.",
            "short",
            {"{{reason}}": _increase("passed_over_total", "reason")},
        ),
        Panel(
            "Age of what is restored",
            "Half of the pods, and the oldest.",
            "s",
            {
                "median": "quantile(0.5, {{restored_generation_age_seconds}})",
                "oldest": "max({{restored_generation_age_seconds}})",
            },
        ),
        Panel(
            "Restored",
            "By what asked for it; demand is what a build waited for.",
            "bytes",
            {"{{why}}": _increase("fetched_bytes_total", "why")},
        ),
        Panel(
            "Objects restored", "", "short", {"{{why}}": _increase("fetched_objects_total", "why")}
        ),
        Panel(
            "Use of what was restored",
            "Of the pods that live now.",
            "short",
            {"{{use}}": "sum by (use) ({{objects}})"},
        ),
        Panel(
            "Wait for one object",
            "On average, of those that a build waited for.",
            "s",
            {
                "wait": _rate("demand_wait_seconds_sum")
                + " / "
                + _rate("demand_wait_seconds_count"),
            },
        ),
        Panel(
            "Restored a fallback",
            "Share of pods.",
            "percentunit",
            {"share": "avg({{restored_fallback}})"},
        ),
        Panel(
            "Restores cut short",
            "By a disk without room; records dropped for layers that the store lost.",
            "short",
            {
                "no room": _increase("prefetch_stopped_total"),
                "dropped": _increase("records_dropped_total"),
            },
        ),
    ),
    "Publishing": (
        Panel(
            "Checkpoints",
            "Taken, and not taken by reason.",
            "short",
            {
                "taken": _increase("checkpoints_total"),
                "{{reason}}": _increase("checkpoints_skipped_total", "reason"),
            },
        ),
        Panel(
            "Packed and uploaded",
            "",
            "bytes",
            {
                "packed": _increase("packed_bytes_total"),
                "uploaded": _increase("uploaded_bytes_total"),
            },
        ),
        Panel(
            "Left out",
            "Snapshots that were not published.",
            "short",
            {"{{what}}": _increase("left_out_total", "what")},
        ),
    ),
    "Store": (
        Panel(
            "Operations",
            "",
            "ops",
            {
                "{{operation}}": _rate("store_operations_total", "operation"),
            },
        ),
        Panel(
            "Latency",
            "Mean of each operation.",
            "s",
            {
                "{{operation}}": _rate("store_operation_seconds_total", "operation")
                + " / "
                + _rate("store_operations_total", "operation"),
            },
        ),
        Panel("Bytes", "", "Bps", {"{{direction}}": _rate("store_bytes_total", "direction")}),
        Panel(
            "Store errors",
            "Also those that a retry overcame; ObjectNotFound and ObjectExists are answers.",
            "short",
            {"{{operation}} {{class}}": _increase("store_errors_total", "operation", "class")},
        ),
        Panel(
            "Errors of the sidecar",
            "Those that were overcome too.",
            "short",
            {"{{class}}": _increase("errors_total", "class")},
        ),
    ),
}


def families() -> Iterable[Metric]:
    """Every family that a sidecar can show: of one that has restored and published."""
    status = Status()
    generation = Generation("key", "key", 1, 0.0)
    status.restores(generation, 1)
    status.was_published(generation)
    return StatusCollector(status).collect()


def metric_names() -> frozenset[str]:
    """The families' names as ``docs/operations.md`` has them, without the prefix."""
    return frozenset(
        family.name.removeprefix(PREFIX) + ("_total" if family.type == "counter" else "")
        for family in families()
    )


def series_names() -> frozenset[str]:
    """What Prometheus stores of them: a summary's sum and count are series of their own."""
    summaries = {
        family.name.removeprefix(PREFIX) for family in families() if family.type == "summary"
    }
    parts = {f"{name}_{part}" for name in summaries for part in ("sum", "count")}
    return (metric_names() - summaries) | parts


def asked(rows: Mapping[str, Sequence[Panel]]) -> frozenset[str]:
    """Names of all series that panels ask for."""
    texts = [text for panels in rows.values() for panel in panels for text in panel.asks.values()]
    return frozenset(name for text in texts for name in _NAME.findall(text))


def problems(rows: Mapping[str, Sequence[Panel]]) -> list[str]:
    """What panels ask for in vain, and what nobody sees."""
    known = series_names()
    unknown = [f"a panel asks for {name}, which no sidecar has" for name in asked(rows) - known]
    unseen = [
        f"no panel shows {name}: add one, or name it in NOT_SHOWN"
        for name in known - asked(rows) - NOT_SHOWN
    ]
    stale = [f"NOT_SHOWN has {name}, which no sidecar has" for name in NOT_SHOWN - known]
    return sorted([*unknown, *unseen, *stale])


def dashboard(rows: Mapping[str, Sequence[Panel]]) -> dict[str, Any]:
    """The dashboard as Grafana imports it (schema 39, Grafana 10.3 and newer)."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in rows.items():
        place = {"h": 1, "w": 24, "x": 0, "y": top}
        panels.append({"type": "row", "title": title, "id": len(panels) + 1, "gridPos": place})
        top += 1
        for number, panel in enumerate(row):
            line, column = divmod(number, 24 // _WIDTH)
            place = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": top + line * _HEIGHT}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel)})
        top += _HEIGHT * -(-len(row) // (24 // _WIDTH))
    return {
        "uid": "buildsvc",
        "title": "buildsvc: build pods",
        "tags": ["buildsvc"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {
                    "name": "namespace",
                    "type": "query",
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "query": f"label_values({PREFIX}info, namespace)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                },
            ]
        },
        "panels": panels,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "expr": _NAME.sub(rf'{PREFIX}\1{{namespace=~"$namespace"}}', text),
                "legendFormat": legend,
            }
            for number, (legend, text) in enumerate(panel.asks.items())
        ],
    }


def text() -> str:
    """The file's content. Raises ValueError with all that is wrong with the panels."""
    if wrong := problems(ROWS):
        raise ValueError("\n".join(wrong))
    return json.dumps(dashboard(ROWS), indent=2) + "\n"
