"""Versions of the peers that are here."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.comparison.versions import peers_versions
from perf.host import PerfError


def program(directory: Path, name: str, does: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)


def test_what_is_not_here_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    program(
        tmp_path, "executor", 'test "$1" = version && echo Kaniko version : v1.24.0 && echo more'
    )
    program(tmp_path, "buildah", "echo buildah version 9")
    found = peers_versions()
    assert found["kaniko"] == "Kaniko version : v1.24.0"
    assert found["buildah"] == "buildah version 9"
    assert "dockerd" not in found


def test_what_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    program(tmp_path, "minio", "true")
    with pytest.raises(PerfError, match="minio does not say"):
        peers_versions()
