from pathlib import Path
from typing import Any

import pytest

from perf.host import PerfError
from perf.pod import Fetched, Pod, PodOptions, fetched, publication_end


def _span(kind: str, name: str = "", outcome: str = "ok", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, "outcome": outcome, "begin": 0.0, "end": 1.0, **more}


def test_fetched_bytes_by_what_became_of_them() -> None:
    status = {
        "objects": {"demand": 1, "prefetch": 2},
        "timeline": [
            _span("fetch", "a", why="demand", bytes=1),
            _span("fetch", "b", why="trace", bytes=10),
            _span("fetch", "c", why="rest", bytes=100),
            _span("fetch", "d", why="rest", bytes=1000),
            _span("fetch", "e", why="rest", outcome="cancelled"),
            _span("upload", "p", bytes=5),
        ],
    }

    # "new" was made by the pod's own build; "c" only earlier pods used.
    trace = ["new", "b", "a", "d", "c"]
    assert fetched(status, trace) == Fetched(1, 1010, 100)


def test_publication_end_is_the_last_that_succeeded() -> None:
    status = {
        "started_unix": 1000.0,
        "timeline": [
            _span("publish", end=3.0),
            _span("publish", end=7.5),
            _span("publish", end=9.0, outcome="failed"),
            _span("checkpoint", end=20.0),
            _span("publish", end=None, outcome=""),
        ],
    }

    assert publication_end(status) == 1007.5
    assert publication_end({"started_unix": 1000.0, "timeline": []}) == 0


@pytest.mark.parametrize("failures", [2, 3])
def test_a_publication_that_others_won_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    states = [
        {"started_unix": 0.0, "timeline": [], "by": {"checkpoints_skipped": {"failed": number}}}
        for number in range(1, failures + 1)
    ]
    states.append(states[-1] | {"timeline": [_span("publish", end=9.0)]})
    pod = Pod(tmp_path / "pod", PodOptions("store", "key", tmp_path))
    monkeypatch.setattr(pod, "status", iter(states).__next__)
    if failures < 3:
        assert pod.wait_published(5.0) == states[-1]
        return
    with pytest.raises(PerfError, match="the publication failed"):
        pod.wait_published(5.0)
