"""The suite that every store and every wrapper passes; needs pytest.

Derive from it and give it the store, empty each time::

    class TestLocalStore(StoreSuite):
        @pytest.fixture
        async def store(self, tmp_path):
            store = LocalStore(tmp_path / "store")
            yield store
            await store.close()
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import (
    InvalidName,
    ObjectExists,
    ObjectNotFound,
    ShortObject,
    UnreadableObject,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from buildsvc.store.contract import Store

BAD_NAMES = (
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.b", "A",
    "a b", "a\n", "a\0b", "ä", "a\\b", "a%2fb", "a?b", "a#b", "x" * 256, "/".join("a" * 257),
)  # fmt: skip
GOOD_NAMES = (
    "a", "0", "-", "_", "a.b", "a..b", "a-b/c_d/e.f", "x" * 255,
    "/".join("a" * 256), "keys/k/heads/00000000000000000001", "a.gz", "a.json",
)  # fmt: skip


class StoreSuite:
    """What the contract promises, one promise each."""

    @pytest.fixture
    async def store(self) -> Store:
        """The empty store under test; to be overridden."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 65_537, 3 << 20])
    async def test_gets_what_was_put(self, store: Store, size: int) -> None:
        data = os.urandom(size)
        await store.put("packs/ab/object", data)
        assert await store.get("packs/ab/object") == data

    async def test_gets_no_more_than_the_limit(self, store: Store) -> None:
        await store.put("empty", b"")
        await store.put("a", b"0123456789")
        await store.put("large", os.urandom(3 << 20))
        assert await store.get("empty", limit=0) == b""
        assert await store.get("a", limit=10) == b"0123456789"
        for name, limit in (("a", 9), ("a", 0), ("large", 1), ("large", (3 << 20) - 1)):
            with pytest.raises(UnreadableObject, match="too large"):
                await store.get(name, limit=limit)
        with pytest.raises(ObjectNotFound):
            await store.get("absent", limit=0)
        assert await store.get("a") == b"0123456789"

    async def test_put_replaces(self, store: Store) -> None:
        await store.put("a/b", b"the first one, longer")
        await store.put("a/b", b"second")
        assert await store.get("a/b") == b"second"

    @pytest.mark.parametrize("size", [0, 1, (5 << 20) + 3])
    async def test_puts_a_file(self, store: Store, tmp_path: Path, size: int) -> None:
        data = os.urandom(size)
        path = tmp_path / "the-file"
        await asyncio.to_thread(path.write_bytes, data)
        await store.put_file("packs/cd/file", path)
        await store.put_file("packs/cd/file", path)
        assert await store.get("packs/cd/file") == data
        assert await asyncio.to_thread(path.read_bytes) == data

    async def test_a_missing_file_is_the_callers_error(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            await store.put_file("a", tmp_path / "absent")
        with pytest.raises(ObjectNotFound):
            await store.stat("a")

    async def test_creates_once(self, store: Store) -> None:
        await store.create("keys/k/heads/1", b"first")
        with pytest.raises(ObjectExists):
            await store.create("keys/k/heads/1", b"second")
        assert await store.get("keys/k/heads/1") == b"first"

    async def test_create_sees_what_was_put(self, store: Store) -> None:
        await store.put("a", b"put")
        with pytest.raises(ObjectExists):
            await store.create("a", b"created")
        assert await store.get("a") == b"put"

    async def test_one_of_many_creators_wins(self, store: Store) -> None:
        async def create(nonce: bytes) -> bytes | None:
            try:
                await store.create("head", nonce)
            except ObjectExists:
                return None
            return nonce

        for _ in range(5):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(create(b"%d" % number)) for number in range(16)]
            winners = [task.result() for task in tasks if task.result() is not None]
            assert winners == [await store.get("head")]
            await store.delete("head")

    @pytest.mark.parametrize(
        ("start", "length"), [(0, 10), (0, 1), (9, 1), (3, 4), (0, 0), (5, 0), (10, 0)]
    )
    async def test_gets_a_range(
        self, store: Store, tmp_path: Path, start: int, length: int
    ) -> None:
        data = b"0123456789"
        await store.put("a", data)
        assert await store.get_range("a", start, length) == data[start : start + length]
        with (tmp_path / "target").open("w+b") as target:
            target.write(b"--------------")
            target.flush()
            assert await store.get_range_to("a", start, length, target.fileno(), 2) == length
            target.seek(0)
            expected = b"--" + data[start : start + length] + b"-" * (12 - length)
            assert target.read() == expected

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (11, 1), (11, 0)])
    async def test_a_range_beyond_the_end_is_an_error(
        self, store: Store, tmp_path: Path, start: int, length: int
    ) -> None:
        await store.put("a", b"0123456789")
        with pytest.raises(ShortObject):
            await store.get_range("a", start, length)
        with (tmp_path / "target").open("wb") as target, pytest.raises(ShortObject):
            await store.get_range_to("a", start, length, target.fileno())

    async def test_any_range_of_an_empty_object_is_short(self, store: Store) -> None:
        await store.put("a", b"")
        assert await store.get_range("a", 0, 0) == b""
        with pytest.raises(ShortObject):
            await store.get_range("a", 0, 1)

    async def test_negative_ranges_are_refused(self, store: Store) -> None:
        await store.put("a", b"0123456789")
        for start, length in ((-1, 2), (1, -1)):
            with pytest.raises(ValueError, match="range"):
                await store.get_range("a", start, length)

    async def test_large_ranges_into_one_file_at_once(self, store: Store, tmp_path: Path) -> None:
        data = os.urandom((9 << 20) + 5)
        await store.put("a", data)
        step = 2 << 20
        with (tmp_path / "target").open("w+b") as target:
            target.seek(7)
            async with asyncio.TaskGroup() as group:
                for start in range(0, len(data), step):
                    length = min(step, len(data) - start)
                    group.create_task(
                        store.get_range_to("a", start, length, target.fileno(), start)
                    )
            assert target.tell() == 7
            target.seek(0)
            assert target.read() == data

    async def test_an_unwritable_target_is_the_callers_error(
        self, store: Store, tmp_path: Path
    ) -> None:
        await store.put("a", b"0123456789")
        path = tmp_path / "target"
        await asyncio.to_thread(path.write_bytes, b"")
        with path.open("rb") as target, pytest.raises(OSError, match="Bad file descriptor"):
            await store.get_range_to("a", 0, 10, target.fileno())

    async def test_stat_tells_size_and_time(self, store: Store) -> None:
        await store.put("a/b", b"12345")
        stat = await store.stat("a/b")
        assert (stat.name, stat.size) == ("a/b", 5)
        if stat.modified is not None:
            written = tempfile_time()
            assert abs(stat.modified - written) < 600, "seconds since the epoch"

    @pytest.mark.parametrize("name", ["absent", "there/absent", "object/below", "there"])
    async def test_absent_objects(self, store: Store, tmp_path: Path, name: str) -> None:
        await store.put("there/object", b"data")
        await store.put("object", b"data")
        operations: tuple[Callable[[], Coroutine[object, object, object]], ...] = (
            lambda: store.get(name),
            lambda: store.get_range(name, 0, 1),
            lambda: store.get_range(name, 0, 0),
            lambda: store.stat(name),
        )
        for operation in operations:
            with pytest.raises(ObjectNotFound):
                await operation()
        with (tmp_path / "target").open("wb") as target, pytest.raises(ObjectNotFound):
            await store.get_range_to(name, 0, 1, target.fileno())

    async def test_delete(self, store: Store) -> None:
        await store.put("a/b", b"data")
        await store.delete("a/b")
        with pytest.raises(ObjectNotFound):
            await store.get("a/b")
        await store.delete("a/b")
        await store.create("a/b", b"again")
        assert await store.get("a/b") == b"again"

    async def test_an_empty_store_has_nothing(self, store: Store) -> None:
        assert [stat async for stat in store.list("")] == []
        with pytest.raises(ObjectNotFound):
            await store.get("a")
        await store.delete("a")

    async def test_lists_by_prefix_in_order(self, store: Store) -> None:
        names = ["a-b", "a.b/x", "a/b", "a/b2/c", "a0", "b/a/b", "b/a0", "b/b"]
        for name in reversed(names):
            await store.put(name, name.encode())
        for prefix in ("", "a", "a/", "a/b", "a/b2/", "b/a", "b/a/", "b/a/b", "c", "a/b/"):
            found = [stat async for stat in store.list(prefix)]
            assert [stat.name for stat in found] == sorted(
                name for name in names if name.startswith(prefix)
            ), prefix
            assert all(stat.size == len(stat.name) for stat in found)

    async def test_lists_more_than_a_page(self, store: Store) -> None:
        names = [f"heads/{number:020}" for number in range(1203)]
        gate = asyncio.Semaphore(32)

        async def put(name: str) -> None:
            async with gate:
                await store.put(name, b"x")

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(put(name))
        assert [stat.name async for stat in store.list("heads/")] == names

    async def test_a_listing_can_be_left_and_the_store_used_within(self, store: Store) -> None:
        for number in range(3):
            await store.put(f"a/{number}", b"x")
        async for stat in store.list("a/"):
            assert await store.get(stat.name) == b"x"
            break
        assert await store.get("a/2") == b"x"

    @pytest.mark.parametrize("name", GOOD_NAMES)
    async def test_good_names(self, store: Store, name: str) -> None:
        await store.create(name, b"data")
        assert await store.get(name) == b"data"
        assert await store.get_range(name, 1, 2) == b"at"
        assert [stat.name async for stat in store.list("")] == [name]
        assert (await store.stat(name)).size == 4

    @pytest.mark.parametrize("name", BAD_NAMES)
    async def test_bad_names(self, store: Store, tmp_path: Path, name: str) -> None:
        path = tmp_path / "source"
        await asyncio.to_thread(path.write_bytes, b"data")
        operations: tuple[Callable[[], Coroutine[object, object, object]], ...] = (
            lambda: store.get(name),
            lambda: store.get_range(name, 0, 1),
            lambda: store.get_range_to(name, 0, 1, 0),
            lambda: store.put(name, b""),
            lambda: store.put_file(name, path),
            lambda: store.create(name, b""),
            lambda: store.stat(name),
            lambda: store.delete(name),
        )
        for operation in operations:
            with pytest.raises(InvalidName):
                await operation()

    @pytest.mark.parametrize("prefix", ["/", "a//", "..", "a/..", "A", ".", "a?"])
    async def test_bad_prefixes(self, store: Store, prefix: str) -> None:
        with pytest.raises(InvalidName):
            assert [stat async for stat in store.list(prefix)] == []

    async def test_readers_see_whole_objects_while_it_is_replaced(self, store: Store) -> None:
        versions = [bytes([number]) * (1 << 20) for number in range(4)]
        await store.put("a", versions[0])
        done = asyncio.Event()

        async def read() -> None:
            while not done.is_set():
                assert await store.get("a") in versions

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            for version in versions * 3:
                await store.put("a", version)
            done.set()

    async def test_a_cancelled_put_leaves_a_usable_store(self, store: Store) -> None:
        await store.put("a", b"before")
        task = asyncio.create_task(store.put("a", b"after" * 200_000))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.get("a") in {b"before", b"after" * 200_000}
        await store.put("b", b"data")
        assert await store.get("b") == b"data"


def tempfile_time() -> float:
    """The clock of file systems, in seconds since the epoch."""
    with tempfile.TemporaryFile() as file:
        return os.fstat(file.fileno()).st_mtime
