"""Fixtures of the store's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from blockbuster import blockbuster_ctx

from buildsvc.store.local import LocalStore
from tests.conftest import allow_harmless

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytest.register_assert_rewrite("buildsvc.store.testing")


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """A blocking call of the store's or the server's in the event loop fails the test."""
    excluded = ["buildsvc.store.testing"]
    with blockbuster_ctx(["buildsvc", "perf"], excluded_modules=excluded) as watched:
        allow_harmless(watched)
        yield


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalStore]:
    """An empty local store."""
    store = LocalStore(tmp_path / "store")
    yield store
    await store.close()
