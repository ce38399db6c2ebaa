"""Versions of the peers that are here."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.comparison import versions
from perf.comparison.versions import peers_versions
from perf.host import PerfError


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all that a command is looked for in, with two of them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, does in (("executor", "exit 1"), ("buildah", "echo buildah version 9")):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    return tmp_path


@pytest.mark.usefixtures("programs")
def test_what_is_not_here_has_no_version() -> None:
    found = peers_versions()
    assert found == {"kaniko": found["kaniko"], "buildah": "buildah version 9"}
    assert found["kaniko"].startswith("v1.")


def test_every_one_that_we_build_is_pinned(programs: Path) -> None:
    for program, _, _ in versions._BUILT.values():
        (programs / program).touch(mode=0o755)
    found = peers_versions()
    assert {*versions._BUILT, "buildah"} == set(found)
    assert all(found[name].startswith("v") for name in versions._BUILT)


def test_a_module_that_is_not_built_there(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = programs / "tools"
    (tools / "peers" / "kaniko").mkdir(parents=True)
    (tools / "peers" / "kaniko" / "go.mod").write_text("module x\n")
    monkeypatch.setattr(versions, "TOOLS", tools)
    with pytest.raises(PerfError, match=r"does not say which version of .*kaniko"):
        peers_versions()
