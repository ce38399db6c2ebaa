"""docs/architecture.md names every module of the sidecar, and none that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("buildsvc", "sidecar", "perf")


@pytest.fixture(scope="module")
def named() -> set[str]:
    page = (ROOT / "docs" / "architecture.md").read_text()
    return {path.rpartition("/")[2] for path in re.findall(r"`([\w/]+\.py)`", page)}


def test_every_module_of_the_sidecar(named: set[str]) -> None:
    modules = {path.name for path in (ROOT / "sidecar").rglob("*.py")}
    assert modules - named == {"__init__.py"}


def test_none_that_is_gone(named: set[str]) -> None:
    modules = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert named <= modules
