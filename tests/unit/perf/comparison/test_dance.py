"""Which cache mounts are carried from pod to pod, and what is built for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from perf.change import FirstInstruction, Line
from perf.comparison.peers import dance
from perf.comparison.peers.command import Ran
from perf.comparison.peers.dance import Dance
from perf.comparison.place import Place
from perf.daemon import Daemon
from perf.project import Project
from perf.watch import Memory

_DOCKERFILE = """\
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked apt-get install gcc
RUN --mount=type=cache,id=/var/cache/apt-run,target=/var/cache/apt,sharing=locked apt-get install x
RUN --mount=type=cache,target=/root/go/pkg/mod go mod download
RUN --mount=type=cache,target=/root/go/pkg/mod \\
    --mount=type=cache,target=/root/.cache/go-build go build
"""


@pytest.fixture
def peer(tmp_path: Path) -> Dance:
    (tmp_path / "Dockerfile").write_text(_DOCKERFILE)
    project = Project("go", tmp_path, tmp_path / "Dockerfile", Line("main.go"))
    store = SimpleNamespace(url="http://store")
    return Dance(cast("Place", SimpleNamespace(project=project, store=lambda _: store, bases=[{}])))


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """Its client never runs."""
    monkeypatch.setattr(dance, "run", lambda *_: Ran(0.0, 0.0, 0.0, []))
    made = SimpleNamespace(base=tmp_path, client=lambda: ["buildctl"])
    return cast("Daemon", made)


def test_each_once_and_apts_where_it_runs_again(peer: Dance) -> None:
    assert peer.mounts() == ["/root/go/pkg/mod", "/root/.cache/go-build"]
    peer.place.project = replace(peer.place.project, change=FirstInstruction())
    apts = ["/var/cache/apt", "/var/cache/apt-run"]
    assert peer.mounts() == [*apts, "/root/go/pkg/mod", "/root/.cache/go-build"]


def test_one_build_fills_all_of_them(peer: Dance, daemon: Daemon) -> None:
    filled = peer._dance(Memory(), daemon, dance._IN)
    _, _, *run = (filled.directory / "Dockerfile").read_text().splitlines()
    assert "\n".join(run) == (
        "RUN --mount=type=cache,id=/root/go/pkg/mod,target=/root/go/pkg/mod"
        " --mount=type=cache,id=/root/.cache/go-build,target=/root/.cache/go-build"
        " --mount=type=bind,source=mounts.tar,target=/mounts.tar \\\n"
        '    ["/busybox", "tar", "-xf", "/mounts.tar", "-C", "/"]'
    )
    assert (filled.directory / "busybox").exists()
    assert not [word for word in filled.command if word.startswith("--output")]


def test_another_one_makes_a_tar_of_them(peer: Dance, daemon: Daemon) -> None:
    taken = peer._dance(Memory(), daemon, dance._OUT)
    text = (taken.directory / "Dockerfile").read_text()
    assert '"-cf", "/mounts.tar", "-C", "/", "root/go/pkg/mod", "root/.cache/go-build"]' in text
    assert taken.command[-1] == f"--output=type=local,dest={taken.directory}/out"
