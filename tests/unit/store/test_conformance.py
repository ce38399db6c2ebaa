"""Every store and every wrapper passes the one suite."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from buildsvc.store.bandwidth import BandwidthLimitedStore
from buildsvc.store.faults import FaultyStore
from buildsvc.store.http import HttpStore
from buildsvc.store.limit import LimitedStore
from buildsvc.store.local import LocalStore
from buildsvc.store.meter import MeteredStore, StoreUse
from buildsvc.store.open import open_store
from buildsvc.store.retry import RetryingStore
from buildsvc.store.testing import StoreSuite
from perf.objectserver import ObjectServer
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from buildsvc.store.contract import Store
    from tests.minio import Minio


class TestLocalStore(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore) -> Store:
        return local


class TestLocalStoreWithoutCopyFileRange(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> Store:
        def unsupported(*_: int) -> int:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("os.copy_file_range", unsupported)
        return local


class TestHttpStore(StoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        server = ObjectServer(LocalStore(tmp_path / "served"))
        async with serving(server.application()) as address:
            store = HttpStore(address)
            yield store
            await store.close()


class TestS3Store(StoreSuite):
    @pytest.fixture
    async def store(self, minio: Minio) -> AsyncIterator[Store]:
        store = open_store(minio.address(f"conformance/{uuid.uuid4()}"))
        yield store
        await store.close()


class TestRetryingStore(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore) -> Store:
        return RetryingStore(local)


class TestLimitedStore(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore) -> Store:
        return LimitedStore(local, 1)


class TestBandwidthLimitedStore(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore) -> Store:
        return BandwidthLimitedStore(local, 1e9)


class TestMeteredStore(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore) -> AsyncIterator[Store]:
        use = StoreUse()
        yield MeteredStore(local, use)
        assert use.in_flight == 0


class TestUndisturbedFaultyStore(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore) -> Store:
        return FaultyStore(local, [])


class TestAllTogether(StoreSuite):
    @pytest.fixture
    async def store(self, local: LocalStore) -> AsyncIterator[Store]:
        metered = MeteredStore(LimitedStore(FaultyStore(local, []), 4), StoreUse())
        store = RetryingStore(metered)
        yield store
        await store.close()
