"""The overlays that the agent mounts itself, in a real user namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOTLESSKIT = shutil.which(
    "rootlesskit", path=f"{os.environ.get('BUILDSVC_BIN', '')}:{os.environ['PATH']}"
)
_PROGRAM = Path(__file__).parent / "programs" / "agent_mounts.py"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(_ROOTLESSKIT is None, reason="rootlesskit is not there (make tools)"),
    pytest.mark.skipif(os.getuid() == 0, reason="rootless: run as a user with subordinate ids"),
]


def test_mounts_survive_the_agent_and_need_nobody_after_commit(tmp_path: Path) -> None:
    assert _ROOTLESSKIT is not None
    run = subprocess.run(
        [_ROOTLESSKIT, "--net=host", sys.executable, _PROGRAM, tmp_path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.stdout.split() == [
        "adopted",
        "remounted",
        "committed-while-busy",
        "read-across-commit",
        "orphan-removed",
        "many-layers",
    ], run.stderr
