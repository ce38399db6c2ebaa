"""Where the files of deploy/pipelines are, and the programs that check them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TREE = Path(__file__).resolve().parents[3]
PIPELINES = TREE / "deploy" / "pipelines"

#: Names that Git allows for branches, and a few more that it does not: what they have in common is
#: that some shell, template or kubelet would do something with them.
HOSTILE = (
    "$(touch${IFS}touched)",
    "`touch${IFS}touched`",
    "a;touch${IFS}touched;'b\"c",
    "a&&touch${IFS}touched||b|c<d>e#f",
    "--push=off",
    "$(BUILDSVC_STORE)",
    "$(TEKTON_DEFAULT_BRANCH)",
    "$(HOME)/${HOME}/$HOME",
    "${{github.token}}/{{workflow.name}}/$[[inputs.job]]/$(params.version)",
    '"},{"name":"PATH',
    "ünï\\n%0a",
)


@cache
def checkers() -> Path:
    """Return the directory with the programs that `make setup` has made for these tests."""
    script = TREE / "tools" / "pipelines" / "build.sh"
    found = subprocess.run([script, "path"], check=True, capture_output=True, text=True)
    path = Path(found.stdout.strip())
    assert (path / "complete").exists(), f"{path} is not there; run make setup"
    return path


def checked(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that says what is wrong; its exit code is the caller's to judge."""
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)


def document(path: Path) -> Any:
    """Return what the one document of a YAML file has."""
    return yaml.safe_load(path.read_text())


def values_of(tree: Any, key: str) -> Iterator[Any]:
    """Yield the values of a key wherever it is in what a YAML file has."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from values_of(value, key)
