"""The builder that buildx remembers for a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf.comparison.peers.bake import client
from perf.daemon import Daemon

#: Makes a builder once, as buildx does: its name must be free.
_BUILDX = """\
#!/bin/sh
mkdir -p "$BUILDX_CONFIG"
set -o noclobber
: > "$BUILDX_CONFIG/$2"
"""


def test_a_daemon_that_stays_up_keeps_its_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buildx = tmp_path / "bin" / "buildx"
    buildx.parent.mkdir()
    buildx.write_text(_BUILDX)
    buildx.chmod(0o755)
    monkeypatch.setenv("PATH", str(buildx.parent), prepend=":")
    daemon = Daemon(tmp_path / "warm", "unix:///warm/buildkitd.sock")

    first = client(daemon)

    assert (daemon.base / "buildx" / "--name=ci").exists()
    assert client(daemon) == first
