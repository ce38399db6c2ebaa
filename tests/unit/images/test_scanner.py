"""deploy/images/scanner.py on file systems of a few files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perf.host import REPOSITORY

_SCANNER = REPOSITORY / "deploy/images/scanner.py"
_STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b7
Description: a shell
 with words: that look like a field

Package: gone
Status: deinstall ok config-files
Version: 1

Package: ca-certificates
Status: install ok installed
Architecture: all
Version: 20230311
"""


def _scan(tmp_path: Path, root: Path, **more: str) -> dict[str, Any]:
    """Run it as BuildKit does; return the documents by their names."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    env = {"BUILDKIT_SCAN_DESTINATION": str(out), "BUILDKIT_SCAN_SOURCE": str(root), **more}
    subprocess.run([sys.executable, _SCANNER], env=env, check=True)
    return {file.name: json.loads(file.read_text()) for file in out.iterdir()}


def _urls(statement: dict[str, Any]) -> list[str]:
    packages = statement["predicate"]["packages"]
    return [package["externalRefs"][0]["referenceLocator"] for package in packages]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with two packages of Debian's and one of Python's."""
    root = tmp_path / "sbom"
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(_STATUS)
    metadata = root / "opt/lib/Some_Thing-1.0.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: Some_Thing\nVersion: 1.0\n\nName: no\n")
    return root


def test_what_is_installed_is_listed(tmp_path: Path, root: Path) -> None:
    """What was removed is not, and names are as package URLs want them."""
    statement = _scan(tmp_path, root)["sbom.spdx.json"]
    assert statement["predicateType"] == "https://spdx.dev/Document"
    assert _urls(statement) == [
        "pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64",
        "pkg:deb/debian/ca-certificates@20230311?arch=all",
        "pkg:pypi/some-thing@1.0",
    ]


def test_it_is_the_same_each_time(tmp_path: Path, root: Path) -> None:
    """Whenever it runs, and in whatever order the file system has its entries."""
    first = _scan(tmp_path, root)
    os.utime(root / "var/lib/dpkg/status", (1, 1))
    assert _scan(tmp_path, root) == first


def test_extras_are_scanned_each(tmp_path: Path, root: Path) -> None:
    """Stages of a build come as directories in one that a variable names."""
    extras = tmp_path / "extras"
    (extras / "sbom-build").mkdir(parents=True)
    found = _scan(tmp_path, root, BUILDKIT_SCAN_SOURCE_EXTRAS=str(extras))
    assert sorted(found) == ["sbom-build.spdx.json", "sbom.spdx.json"]
    assert _urls(found["sbom-build.spdx.json"]) == []


@pytest.mark.parametrize("link", ["var/lib/dpkg/status", "var/lib/dpkg", "var"])
def test_links_lead_nowhere(tmp_path: Path, root: Path, link: str) -> None:
    """A file system that is scanned is anybody's: what a link names may be the scanner's own."""
    own = tmp_path / "own"
    shutil.copytree(root / "var", own / "var")
    (own / "var/lib/dpkg/status").write_text("Package: scanners-own\nVersion: 1\n")
    shutil.rmtree(root / "var")
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(own / link)
    assert _urls(_scan(tmp_path, root)["sbom.spdx.json"]) == ["pkg:pypi/some-thing@1.0"]


def test_without_buildkit_it_says_so() -> None:
    """Usage is an exit code of its own."""
    done = subprocess.run(
        [sys.executable, _SCANNER], env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 64
    assert "BUILDKIT_SCAN_DESTINATION" in done.stderr
