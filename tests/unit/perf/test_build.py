import base64
import json
from pathlib import Path

import pytest

from perf.build import Job, read_progress


def _line(**event: object) -> str:
    return json.dumps(event) + "\n"


def _vertex(name: str, began: str = "", ended: str = "", **more: object) -> dict[str, object]:
    vertex: dict[str, object] = {"digest": f"sha256:{name}", "name": name, **more}
    if began:
        vertex["started"] = f"2026-11-21T10:00:{began}Z"
    if ended:
        vertex["completed"] = f"2026-11-21T10:00:{ended}Z"
    return vertex


def test_steps_are_the_instructions_of_the_dockerfile() -> None:
    progress = read_progress(
        [
            _line(vertexes=[_vertex("[internal] load build definition from Dockerfile")]),
            _line(vertexes=[_vertex("[internal] load metadata for 1/2")]),
            _line(vertexes=[_vertex("[1/3] FROM base")]),
            _line(vertexes=[_vertex("[2/3] RUN make", "01.5")]),
            _line(vertexes=[_vertex("[venv 3/3] COPY a /", cached=True)]),
            _line(vertexes=[_vertex("exporting to image")]),
        ]
    )

    assert [step.name for step in progress.instructions] == [
        "[2/3] RUN make",
        "[venv 3/3] COPY a /",
    ]
    assert progress.cached == 1


def test_seconds_are_summed_over_intervals_and_repeated_events_count_once() -> None:
    first = _line(vertexes=[_vertex("x", "01.25", "02.500000000")])
    second = _line(vertexes=[_vertex("x", "10", "10.75")])

    step = read_progress([first, first, second, second]).steps["sha256:x"]

    assert step.seconds == pytest.approx(2.0, abs=1e-6)


def test_a_step_of_several_images_counts_once() -> None:
    told = [("01.000002", "11"), ("01", "10.999998"), ("09", "10"), ("12", "13")]
    lines = [_line(vertexes=[_vertex("x", began, ended)]) for began, ended in told]

    step = read_progress(lines).steps["sha256:x"]

    assert step.seconds == pytest.approx(11.0, abs=1e-5)
    assert step.ended_unix - step.seconds == pytest.approx(1795255202, abs=1e-3)


def test_a_cached_step_takes_no_time() -> None:
    lines = [_line(vertexes=[_vertex("x", "01", "05", cached=True)])]

    assert read_progress(lines).steps["sha256:x"].seconds == 0


def test_output_errors_and_foreign_lines() -> None:
    data = base64.b64encode(b"hello\n").decode()
    progress = read_progress(
        [
            "time=… level=warning\n",
            _line(logs=[{"vertex": "sha256:x", "data": data}]),
            _line(vertexes=[_vertex("x", error="exit code: 1")]),
            _line(statuses=[{"id": "a"}]),
        ]
    )

    assert progress.output == b"hello\n"
    assert progress.steps["sha256:x"].error == "exit code: 1"


def test_command_line() -> None:
    job = Job(Path("/c"), Path("/d/My.Dockerfile"), "r/i:t", {"BASE": "b"}, "t", ("--no-cache",))

    assert job.command(["buildctl", "--addr", "tcp://127.0.0.1:1"], Path("/m")) == [
        "buildctl",
        "--addr",
        "tcp://127.0.0.1:1",
        "build",
        "--progress=rawjson",
        "--frontend=dockerfile.v0",
        "--metadata-file=/m",
        "--local=context=/c",
        "--local=dockerfile=/d",
        "--opt=filename=My.Dockerfile",
        "--opt=build-arg:BASE=b",
        "--opt=target=t",
        "--output=type=image,name=r/i:t,push=true",
        "--no-cache",
    ]
