"""The versions that are stated more than once agree."""

from __future__ import annotations

from pathlib import Path

from sidecar.versions import BUILDKIT_VERSION


def test_the_pinned_buildkit_is_the_one_that_tools_builds() -> None:
    tools = Path(__file__).parents[3] / "tools" / "buildkit" / "go.mod"
    assert f"github.com/moby/buildkit {BUILDKIT_VERSION}" in tools.read_text()
