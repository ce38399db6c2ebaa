"""What the S3 store does beyond the contract, on a real server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import ObjectExists, ObjectNotFound, StoreRefused
from buildsvc.store.open import open_store
from buildsvc.store.s3 import S3Store
from buildsvc.store.s3files import PART, WHOLE
from tests.minio import BUCKET, EMPTY_BUCKET, SECRET, Minio, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from buildsvc.store.contract import Store


@pytest.fixture
def address(minio: Minio) -> str:
    """An empty store's."""
    return minio.address(f"s3/{uuid.uuid4()}")


@pytest.fixture
async def store(address: str) -> AsyncIterator[Store]:
    store = open_store(address)
    assert isinstance(store, S3Store)
    yield store
    await store.close()


async def test_a_store_without_prefix_is_the_whole_bucket(minio: Minio) -> None:
    store = open_store(minio.address(bucket=EMPTY_BUCKET))
    for name in ("a", "ab/b", "b/c", "keys/1"):
        await store.create(name, name.encode())
    assert [stat.name async for stat in store.list("")] == ["a", "ab/b", "b/c", "keys/1"]
    assert [stat.name async for stat in store.list("key")] == ["keys/1"]
    assert [stat.name async for stat in store.list("a")] == ["a", "ab/b"]
    await store.close()


async def test_stores_beside_each_other_are_apart(minio: Minio) -> None:
    base = f"s3/{uuid.uuid4()}"
    one, two = open_store(minio.address(f"{base}/a")), open_store(minio.address(f"{base}/ab"))
    await one.create("x", b"one")
    await two.create("x", b"two")
    assert await one.get("x") == b"one"
    assert [stat.size async for stat in one.list("")] == [3]
    await one.close()
    await two.close()


async def test_objects_of_others_are_not_listed(minio: Minio) -> None:
    base = f"s3/{uuid.uuid4()}"
    other, store = open_store(minio.address(base)), open_store(minio.address(f"{base}/a"))
    upper = open_store(minio.address(f"{base}/a/Not-a-name"))
    await other.put("a0", b"")
    await upper.put("x", b"")
    await store.put("x", b"data")
    assert [stat.name async for stat in store.list("")] == ["x"]
    for opened in (other, upper, store):
        await opened.close()


@pytest.mark.parametrize("size", [WHOLE, WHOLE + 1, WHOLE + PART, WHOLE + PART + 5])
async def test_large_files(store: Store, tmp_path: Path, size: int) -> None:
    data = os.urandom(1 << 20) * (size // (1 << 20) + 1)
    path = tmp_path / "source"
    await asyncio.to_thread(path.write_bytes, data[:size])
    await store.put_file("packs/a", path)
    assert (await store.stat("packs/a")).size == size
    with (tmp_path / "target").open("w+b") as target:
        await store.get_range_to("packs/a", 0, size, target.fileno())
        assert await asyncio.to_thread(target.read) == data[:size]


@pytest.mark.parametrize("size", [1000, WHOLE + PART])
async def test_a_file_that_loses_bytes_is_not_stored(
    store: Store, tmp_path: Path, s3_server: Minio, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.truncate(size)

    def no_more(_fd: int, _buffers: object, at: int) -> int:
        return 0 if at else 1

    monkeypatch.setattr("os.preadv", no_more)
    with pytest.raises(OSError, match="lost bytes"):
        await store.put_file("a", path)
    with pytest.raises(ObjectNotFound):
        await store.stat("a")
    assert not s3_server.unfinished


_MEMORY = """
import asyncio, pathlib, sys
from buildsvc.store.open import open_store

def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10

async def main(address, path):
    store = open_store(address)
    await store.put("small", b"data")
    before = peak()
    for name in ("a", "b", "c", "d"):
        await store.put_file(name, path)
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b", "c", "d"):
            group.create_task(store.put_file(name, path))
    size = path.stat().st_size
    with open(path.with_name("target"), "wb") as target:
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b", "c", "d"):
                group.create_task(store.get_range_to(name, 0, size, target.fileno()))
    print(peak() - before)
    await store.close()

asyncio.run(main(sys.argv[1], pathlib.Path(sys.argv[2])))
"""


@pytest.mark.parametrize("size", [WHOLE, 3 * WHOLE])
def test_memory_is_bounded(address: str, tmp_path: Path, size: int) -> None:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(1 << 20) * (size >> 20))
    argv = [sys.executable, "-c", _MEMORY, address, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    # Two files are sent at a time; some room for the allocator.
    assert int(done.stdout) < 2 * (WHOLE >> 20) + 32


async def test_a_bucket_that_is_not_there(minio: Minio) -> None:
    store = open_store(minio.address(bucket="nowhere"))
    with pytest.raises(StoreRefused, match=r"NoSuchBucket.*what to do: make the bucket"):
        await store.get("a")
    with pytest.raises(StoreRefused, match="NoSuchBucket"):
        await store.put("a", b"data")
    with pytest.raises(StoreRefused, match="NoSuchBucket"):
        await store.create("a", b"data")
    with pytest.raises(StoreRefused, match="NoSuchBucket"):
        await store.stat("a")
    with pytest.raises(StoreRefused, match="NoSuchBucket"):
        assert [stat async for stat in store.list("")] == []
    await store.close()


async def test_wrong_credentials(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-canary")
    store = open_store(address)
    with pytest.raises(StoreRefused, match=r"SignatureDoesNotMatch.*secret key") as caught:
        await store.get("a")
    assert "another-canary" not in str(caught.value)
    with pytest.raises(StoreRefused, match="HTTP 403"):
        await store.stat("a")
    await store.close()


async def test_the_address_wins_over_the_environment(
    minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "mars-1")
    store = open_store(minio.address("s3"))
    await store.put("a", b"data")
    await store.close()


async def test_the_endpoint_can_come_from_the_environment(
    minio: Minio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", minio.endpoint)
    store = open_store(f"s3://{BUCKET}/s3")
    await store.put("a", b"data")
    await store.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "127.0.0.1:9000")
    store = open_store(f"s3://{BUCKET}/s3")
    with pytest.raises(StoreRefused, match="AWS_ENDPOINT_URL_S3"):
        await store.put("a", b"data")
    await store.close()


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with running(tmp_path_factory.mktemp("minio-tls"), tls=True) as server:
        yield server


@pytest.mark.usefixtures("minio")
async def test_tls(tls_server: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tls_server.address("s3"))
    with pytest.raises(StoreRefused, match=r"no trusted connection.*AWS_CA_BUNDLE"):
        await store.put("a", b"data")
    await store.close()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "absent"))
    store = open_store(tls_server.address("s3"))
    with pytest.raises(StoreRefused, match="authorities cannot be read"):
        await store.put("a", b"data")
    await store.close()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tls_server.authorities))
    store = open_store(tls_server.address("s3"))
    await store.create("b", b"data")
    with pytest.raises(ObjectExists):
        await store.create("b", b"data")
    assert await store.get("b") == b"data"
    await store.close()
    monkeypatch.delenv("AWS_CA_BUNDLE")
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.authorities))
    store = open_store(tls_server.address("s3"))
    assert await store.get("b") == b"data"
    await store.close()


async def test_nothing_shows_the_secret(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    store = open_store(address)
    with pytest.raises(ObjectNotFound) as caught:
        await store.get("a")
    shown = f"{caught.value!r} {caught.value.__cause__!r} {store!r}"
    assert SECRET not in shown
    assert SECRET not in "".join(capfd.readouterr())
    await store.close()
