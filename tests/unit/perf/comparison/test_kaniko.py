"""Kaniko's command line, what its log tells, and how a pod ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from perf.change import Line
from perf.comparison import place
from perf.comparison.peers import kaniko
from perf.comparison.peers.contract import Record
from perf.comparison.peers.kaniko import Kaniko
from perf.comparison.peers.kanikolog import message, read_log
from perf.comparison.place import Place
from perf.host import PerfError
from perf.project import Project

IMAGE = "198.18.0.2:5000/built/go:latest"


def _said(text: str) -> str:
    return json.dumps({"level": "info", "msg": text, "time": "2026-11-22T11:00:00Z"}) + "\n"


def _lines(*timed: tuple[float, str]) -> list[tuple[float, str]]:
    return [(at, _said(text)) for at, text in timed]


def test_steps_are_those_that_buildkit_counts() -> None:
    log = read_log(
        _lines(
            (1, "Using caching version of cmd: RUN make"),
            (2, "ENV A=b"),
            (3, "WORKDIR /src"),
            (3, "Cmd: workdir"),
            (4, "COPY . ."),
            (5, "RUN make"),
            (5, "Running: [/bin/sh -c make]"),
            (6, "ADD a.tar /"),
            (7, 'CMD ["a"]'),
        ),
        IMAGE,
        8,
    )
    assert (log.steps, log.cached) == (4, 1)


def test_a_span_lasts_until_something_else_begins() -> None:
    lines = _lines(
        (0.5, "Retrieving image manifest base"),
        (0.6, "Retrieving image base from registry host"),
        (1.0, "Building stage 'base' [idx: '0', base-idx: '-1']"),
        (1.5, "Checking for cached layer host/cache:1..."),
        (1.6, "No cached layer found for cmd RUN make"),
        (1.6, "Unpacking rootfs as cmd RUN make requires it."),
        (3.0, "RUN make"),
        (3.0, "Initializing snapshotter ..."),
        (3.0, "Taking snapshot of full filesystem..."),
        (4.0, "Running: [/bin/sh -c make]"),
        (6.0, "Taking snapshot of full filesystem..."),
        (6.5, "Pushing image to 198.18.0.2:5000/cache/go:1"),
        (7.0, f"Pushing image to {IMAGE}"),
    )
    assert read_log(lines, [IMAGE], 9.0).spans == [
        ("start", 0.0, 0.5),
        ("manifests", 0.5, 1.0),
        ("hash", 1.0, 1.5),
        ("look-up", 1.5, 1.6),
        ("unpack", 1.6, 3.0),
        ("snapshot", 3.0, 4.0),
        ("RUN make", 4.0, 6.0),
        ("snapshot", 6.0, 7.0),
        ("push", 7.0, 9.0),
    ]


def test_the_output_of_run_steps_is_not_kanikos() -> None:
    output = [(1.0, "RUN COPY ADD\n"), (2.0, '{"msg": "RUN make"}\n'), (3.0, "[1]\n")]
    log = read_log(output, [IMAGE], 4.0)
    assert log.steps == 0
    assert log.spans == [("start", 0.0, 4.0)]
    assert message(_said("RUN make")) == "RUN make"


@pytest.fixture
def where(tmp_path: Path) -> Place:
    """A place with a project whose Dockerfile has cache mounts."""
    context = tmp_path / "go"
    context.mkdir()
    (context / "Dockerfile").touch()
    project = Project("go", context, context / "Dockerfile", Line("main.go"), {"BASE": "b:1"})
    images = SimpleNamespace(host="198.18.0.2:5000")
    made = SimpleNamespace(
        project=project, images=images, pod="", fresh=lambda name: tmp_path / name
    )
    return cast("Place", made)


def test_the_executor_is_told_where_the_cache_is(where: Place) -> None:
    arguments = Kaniko(where).arguments(where.project.job(IMAGE))
    assert f"--destination={IMAGE}" in arguments
    # A repository: Kaniko adds the tags.
    assert "--cache-repo=198.18.0.2:5000/cache/go" in arguments
    assert "--dockerfile=/workspace/Dockerfile" in arguments
    assert "--build-arg=BASE=b:1" in arguments


def test_a_dockerfile_without_mounts_is_preferred(where: Place) -> None:
    (where.project.context / "Dockerfile.plain").touch()
    assert "--dockerfile=/workspace/Dockerfile.plain" in Kaniko(where).arguments(
        where.project.job(IMAGE)
    )


def test_of_many_images_each_but_the_last_is_cleaned_up(
    where: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    where.project = replace(where.project, targets=("one", "two", "three"))
    told: list[list[str]] = []

    def run(_root: Path, _context: Path, calls: list[list[str]], _images: list[str]) -> Record:
        told.extend(calls)
        return {}

    monkeypatch.setattr(kaniko, "_run", run)
    Kaniko(where).again()
    assert ["--cleanup" in call for call in told] == [True, True, False]
    assert [word for call in told for word in call if word.startswith("--target")] == [
        "--target=one",
        "--target=two",
        "--target=three",
    ]


def test_large_layers_are_not_compressed_in_memory(where: Place) -> None:
    uncompressed = "--compressed-caching=false"
    assert uncompressed not in Kaniko(where).arguments(where.project.job(IMAGE))
    where.project = replace(where.project, large_layers=True)
    assert uncompressed in Kaniko(where).arguments(where.project.job(IMAGE))


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The command that is run in the place of Kaniko's; what Kaniko's would have been follows."""
    commands = [["sh", "-c", ""]]
    real = kaniko._process

    @contextmanager
    def process(command: list[str], directory: Path) -> Iterator[subprocess.Popen[str]]:
        commands.append(command)
        with real(commands[0], directory) as started:
            yield started

    counters = tmp_path / "dev"
    counters.write_text("  wan0: 70 1 0 0 0 0 0 0 30 2 0 0 0 0 0 0\n")
    monkeypatch.setattr(kaniko, "_process", process)
    monkeypatch.setattr(kaniko, "program", lambda name: f"/bin/{name}")
    monkeypatch.setattr(place, "_COUNTERS", counters)
    return commands


def test_a_build_is_measured_and_its_files_are_removed(
    where: Place, instead: list[list[str]], tmp_path: Path
) -> None:
    script = f"echo made; read -r _; touch file; printf '%s' '{_said('RUN make')}'"
    instead[0] = ["sh", "-c", script]
    record = Kaniko(where).again()
    assert record["commands"] == instead[1:]
    assert "/kaniko/executor" in instead[1][-4]
    assert "--no-push-cache" in instead[1][-4]
    assert record["steps"] == 1
    assert record["seconds"] == record["build_seconds"] >= 0
    assert record["cpu_seconds"] >= 0
    assert not (tmp_path / "kaniko").exists()


def test_a_failure_tells_kanikos_last_words(
    where: Place, instead: list[list[str]], tmp_path: Path
) -> None:
    script = f"echo made; read -r _; echo '{_said('RUN make').strip()}'; echo no rule; exit 3"
    instead[0] = ["sh", "-c", script]
    with pytest.raises(PerfError, match="kaniko exited with 3\nRUN make\nno rule"):
        Kaniko(where).again()
    assert not (tmp_path / "kaniko").exists()


@pytest.mark.usefixtures("instead")
def test_a_pod_that_cannot_be_made_tells_why(where: Place, instead: list[list[str]]) -> None:
    instead[0] = ["sh", "-c", "echo mount: no; exit 1"]
    with pytest.raises(PerfError, match="no pod can be made here: mount: no"):
        Kaniko(where).again()
