"""containerd's own suite for snapshotters, on the agent and on containerd's overlayfs.

Both run in one user namespace on one disk. The agent must pass everything that overlayfs passes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PATH = f"{os.environ.get('BUILDSVC_BIN', '')}:{os.environ['PATH']}"
_ROOTLESSKIT = shutil.which("rootlesskit", path=_PATH)
_SUITE = shutil.which("containerd-suite.test", path=_PATH)
_RESULT = re.compile(r"^ *--- (PASS|FAIL|SKIP): (TestAgent|TestOverlayfs)/(\S+)", re.MULTILINE)
_TESTS = 21
"""How many the suite has, so that one that ends early is noticed."""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(_ROOTLESSKIT is None, reason="rootlesskit is not there (make tools)"),
    pytest.mark.skipif(_SUITE is None, reason="the suite is not built (make tools)"),
    pytest.mark.skipif(os.getuid() == 0, reason="rootless: run as a user with subordinate ids"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What each test said, by snapshotter and name."""
    assert _ROOTLESSKIT is not None
    assert _SUITE is not None
    agent = shlex.join([sys.executable, "-m", "sidecar.agent"])
    run = subprocess.run(
        [_ROOTLESSKIT, "--net=host", _SUITE, "-test.root", "-test.v", f"-agent={agent}"],
        env={**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("suite"))},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=240,
        check=False,
    )
    found: dict[str, dict[str, str]] = {"TestAgent": {}, "TestOverlayfs": {}}
    for outcome, snapshotter, test in _RESULT.findall(run.stdout):
        found[snapshotter][test] = outcome
    # Printed only when a test fails.
    print(run.stdout[-20000:], run.stderr[-5000:])
    return found


def test_both_snapshotters_ran_the_whole_suite(results: dict[str, dict[str, str]]) -> None:
    assert results["TestAgent"].keys() == results["TestOverlayfs"].keys()
    assert len(results["TestAgent"]) == _TESTS


def test_the_agent_passes_what_overlayfs_passes(results: dict[str, dict[str, str]]) -> None:
    passed = {name for name, outcome in results["TestOverlayfs"].items() if outcome == "PASS"}
    assert passed
    assert {name: results["TestAgent"].get(name) for name in passed} == dict.fromkeys(
        passed, "PASS"
    )
