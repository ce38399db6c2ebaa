"""What all tests have in common."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The default database lies in the source tree, which may belong to another user; a machine that
# is busy must not fail a test.
settings.register_profile("buildsvc", database=None, deadline=None)
settings.load_profile("buildsvc")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kill", "the campaign of tests/integration/test_kill.py")
    group.addoption("--kill-points", type=int, default=40, help="processes to kill (40)")
    group.addoption("--kill-seed", type=int, default=0, help="repeat a campaign (random)")
