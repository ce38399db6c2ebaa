"""Fixtures of the tests of measurements."""

from __future__ import annotations

import pytest

from perf import stats


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the ends of intervals do not matter: what is made of a book needs thousands of them."""
    monkeypatch.setattr(stats, "RESAMPLES", 20)
