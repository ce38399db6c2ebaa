"""The one suite, on a server that follows OSS's documentation, and on a real bucket if given."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING

import pytest

from buildsvc.store.open import open_store
from buildsvc.store.retry import RetryingStore
from buildsvc.store.testing import StoreSuite
from tests.unit.store.ossserving import oss_server, oss_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from buildsvc.store.contract import Store

REAL = os.environ.get("BUILDSVC_TEST_OSS_URL", "")


class TestOssStore(StoreSuite):
    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        server = oss_server()
        # Beside the prefix, as in a bucket that others use too.
        server.bucket.put("ci/cache.txt", b"", {}, 0)
        server.bucket.put("ci/cache/", b"", {}, 0)
        server.bucket.put("ci/cachea", b"", {}, 0)
        async with oss_store(server) as store:
            yield store
        assert all(status < 500 for _, status in server.requests)


if REAL:

    class TestRealBucket(StoreSuite):
        """Leaves nothing behind; each test has a prefix of its own below the address'."""

        @pytest.fixture
        async def store(self) -> AsyncIterator[Store]:
            address, _, query = REAL.partition("?")
            prefix = f"{address.rstrip('/')}/conformance-{secrets.token_hex(8)}"
            store = RetryingStore(open_store(f"{prefix}?{query}"))
            yield store
            async with asyncio.TaskGroup() as group:
                async for stat in store.list(""):
                    group.create_task(store.delete(stat.name))
            await store.close()
