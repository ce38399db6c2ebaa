"""The local directory: other processes, durability, and directories that are not fit."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import (
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from buildsvc.store.drafts import STALE_AFTER
from buildsvc.store.local import LocalStore
from buildsvc.store.marker import CONTENT, MARKER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from multiprocessing.synchronize import Barrier

PROCESSES = 4
HEADS = 40


def _create_heads(root: str, me: int, barrier: Barrier) -> None:
    async def create() -> None:
        store = LocalStore(Path(root))
        for number in range(HEADS):
            await asyncio.to_thread(barrier.wait)
            try:
                await store.create(f"heads/{number:020}", b"%d" % me * 100_000)
            except ObjectExists:
                continue
            await store.create(f"winners/{number}-{me}", b"")
        await store.close()

    asyncio.run(create())


async def test_one_of_several_processes_creates(local: LocalStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    processes = [
        context.Process(target=_create_heads, args=(str(tmp_path / "store"), me, barrier))
        for me in range(PROCESSES)
    ]

    def run() -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    await asyncio.to_thread(run)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    names = [stat.name.removeprefix("winners/") async for stat in local.list("winners/")]
    assert len(names) == HEADS
    winners = dict(name.split("-") for name in names)
    for number in range(HEADS):
        head = await local.get(f"heads/{number:020}")
        assert head == winners[str(number)].encode() * 100_000


WRITER = """
import asyncio, sys
from pathlib import Path
from buildsvc.store.local import LocalStore

async def main():
    store = LocalStore(Path(sys.argv[1]))
    for number in range(1_000_000):
        await store.put(f"put/{number % 3}", b"%d" % (number % 10) * 3_000_000)
        await store.create(f"created/{number}", b"%d" % (number % 10) * 300_000)
        print(number, flush=True)

asyncio.run(main())
"""


async def test_a_killed_writer_leaves_no_partial_object(local: LocalStore, tmp_path: Path) -> None:
    def write_and_kill(lines: int) -> int:
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "store")], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            return writer.wait()

    for lines in (1, 2, 5):
        assert await asyncio.to_thread(write_and_kill, lines) == -signal.SIGKILL
        async for stat in local.list(""):
            data = await local.get(stat.name)
            assert data == data[:1] * (3_000_000 if stat.name.startswith("put/") else 300_000)
        shutil.rmtree(tmp_path / "store" / "created")


async def test_what_the_store_keeps_for_itself_is_no_object(
    local: LocalStore, tmp_path: Path
) -> None:
    await local.put("a", b"data")
    root = tmp_path / "store"
    (root / "UPPER").write_bytes(b"")
    (root / ".drafts" / "half").write_bytes(b"")
    (root / "link").symlink_to(root / "a")
    assert [stat.name async for stat in local.list("")] == ["a"]
    assert sorted(os.listdir(root)) == [".buildsvc-store", ".drafts", "UPPER", "a", "link"]


async def test_drafts_of_dead_writers_are_removed(tmp_path: Path) -> None:
    drafts = tmp_path / "store" / ".drafts"
    first = LocalStore(tmp_path / "store")
    await first.put("a", b"data")
    await first.close()
    for name, age in (("old", STALE_AFTER + 60), ("new", STALE_AFTER - 60)):
        (drafts / name).write_bytes(b"")
        modified = (drafts / name).stat().st_mtime - age
        os.utime(drafts / name, (modified, modified))
    second = LocalStore(tmp_path / "store")
    await second.put("b", b"data")
    await second.close()
    assert os.listdir(drafts) == ["new"]


async def test_bytes_and_names_are_synced_before_success(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, str]] = []

    def recording(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def record(first: int | Path, *rest: Path) -> None:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            shown = str(rest[0]) if rest else path
            steps.append((name, shown.removeprefix(str(tmp_path / "store"))))
            call(first, *rest)

        return record

    await local.put("there/a", b"data")
    for name in ("fsync", "rename", "link"):
        monkeypatch.setattr(os, name, recording(name, getattr(os, name)))
    await local.create("there/new/head", b"data")
    draft = steps[1][1]
    assert draft.startswith("/.drafts/")
    assert steps == [
        ("fsync", "/there"),
        ("fsync", draft),
        ("link", "/there/new/head"),
        ("fsync", "/there/new"),
    ]
    steps.clear()
    await local.put("there/b", b"data")
    assert [step for step, _ in steps] == ["fsync", "rename", "fsync"]
    assert [path for _, path in steps][1:] == ["/there/b", "/there"]


async def _read(store: LocalStore) -> None:
    await store.get("a")


async def _write(store: LocalStore) -> None:
    await store.put("a", b"data")


async def _list(store: LocalStore) -> None:
    assert [stat async for stat in store.list("")] == []


def _tree(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


@pytest.mark.parametrize("operation", [_read, _write, _list])
@pytest.mark.parametrize("kind", ["foreign", "newer", "file"])
async def test_a_directory_of_somebody_else_is_refused_and_left(
    tmp_path: Path, kind: str, operation: Callable[[LocalStore], Awaitable[None]]
) -> None:
    root = tmp_path / "root"
    match kind:
        case "foreign":
            root.mkdir()
            (root / "a").write_bytes(b"not an object")
        case "newer":
            root.mkdir()
            (root / MARKER).write_bytes(CONTENT.replace(b"1", b"2"))
        case _:
            root.write_bytes(b"")
    before = _tree(tmp_path)
    store = LocalStore(root)
    with pytest.raises(StoreRefused, match=r"expected: .*found: .*what to do: "):
        await operation(store)
    await store.close()
    assert _tree(tmp_path) == before


def _prepare(root: Path, kind: str) -> None:
    if kind != "absent":
        root.mkdir(parents=True)
    if kind == "volume":
        (root / "lost+found").mkdir()


def _entries(root: Path) -> list[str]:
    return os.listdir(root) if root.exists() else []


@pytest.mark.parametrize("kind", ["absent", "empty", "volume"])
async def test_an_empty_place_becomes_a_store_by_the_first_write(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "not" / "yet"
    _prepare(root, kind)
    store = LocalStore(root)
    await _list(store)
    with pytest.raises(ObjectNotFound):
        await store.get("a")
    assert _entries(root) in ([], ["lost+found"])
    await store.put("a", b"data")
    assert MARKER in _entries(root)
    await store.close()


async def test_several_stores_make_one_directory_at_once(tmp_path: Path) -> None:
    stores = [LocalStore(tmp_path / "store") for _ in range(16)]
    async with asyncio.TaskGroup() as group:
        for number, store in enumerate(stores):
            group.create_task(store.put(f"a/{number}", b"data"))
    assert len([stat async for stat in stores[0].list("a/")]) == 16
    for store in stores:
        await store.close()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreRefused),
        (errno.EDQUOT, StoreRefused),
        (errno.EROFS, StoreRefused),
        (errno.EACCES, StoreRefused),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
    ],
)
async def test_failing_system_calls(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[StoreError]
) -> None:
    await local.put("a", b"before")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for operation in (local.put("a", b"after"), local.create("b", b"data")):
            with pytest.raises(kind) as caught:
                await operation
            assert type(caught.value) is kind
            assert os.strerror(number) in str(caught.value)
    assert [stat.name async for stat in local.list("")] == ["a"]
    assert await local.get("a") == b"before"


MOUNTED = """
import asyncio, sys
from pathlib import Path
from buildsvc.errors import StoreError
from buildsvc.store.local import LocalStore

async def main():
    store = LocalStore(Path(sys.argv[1]))
    try:
        await store.put("small", b"data")
        await store.put("large", b"x" * 2_000_000)
    except StoreError as error:
        print(type(error).__name__, error)
    print("objects", [stat.name async for stat in store.list("")])
    await store.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("size=1m", ["StoreRefused cannot write large: the store is full", "objects ['small']"]),
        ("ro", ["StoreRefused cannot write small", "objects []"]),
    ],
)
def test_full_and_read_only_file_systems(tmp_path: Path, options: str, expected: list[str]) -> None:
    mount = f"mount -t tmpfs -o {options} none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("this machine lets us mount nothing, not even in a user namespace")
    run = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    answer = subprocess.run(
        ["unshare", "-rm", "sh", "-c", run, sys.executable, textwrap.dedent(MOUNTED)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert len(answer) == 2
    for line, beginning in zip(answer, expected, strict=True):
        assert line.startswith(beginning)
    assert "what to do: " in answer[0]


async def test_a_stream_of_another_size_is_not_stored(local: LocalStore) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"123"
        yield b"45"

    for size in (4, 6):
        with pytest.raises(StoreUnavailable, match="cut off"):
            await local.receive("a", chunks(), exclusive=False, size=size)
    with pytest.raises(ObjectNotFound):
        await local.get("a")
    await local.receive("a", chunks(), exclusive=True, size=5)
    assert await local.get("a") == b"12345"
    with pytest.raises(ObjectExists):
        await local.receive("a", chunks(), exclusive=True, size=None)


async def test_a_directory_in_an_objects_place_is_named(local: LocalStore) -> None:
    await local.put("a/b", b"data")
    for operation in (local.put("a", b""), local.create("a", b"")):
        with pytest.raises(StoreRefused, match="Is a directory"):
            await operation
    with pytest.raises(StoreRefused, match="Not a directory"):
        await local.put("a/b/c", b"")


async def test_a_cancelled_copy_writes_nothing_into_a_reused_descriptor(
    local: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    reached, copied = asyncio.Event(), asyncio.Event()
    go = multiprocessing.get_context("spawn").Event()
    copy_file_range = os.copy_file_range

    def held(*arguments: int) -> int:
        loop.call_soon_threadsafe(reached.set)
        go.wait()
        try:
            return copy_file_range(*arguments)
        finally:
            loop.call_soon_threadsafe(copied.set)

    await local.put("a", b"object")
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    monkeypatch.setattr(os, "copy_file_range", held)
    task = asyncio.create_task(local.get_range_to("a", 0, 6, target))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(target)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    assert other == target, "the number is used again"
    go.set()
    await copied.wait()
    assert os.pread(other, 10, 0) == b""
    os.close(other)


async def test_a_cancelled_copy_stops_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    reached = asyncio.Event()
    go = multiprocessing.get_context("spawn").Event()
    steps: list[int] = []

    def held(_source: int, _target: int, count: int, *_: int) -> int:
        steps.append(count)
        loop.call_soon_threadsafe(reached.set)
        go.wait()
        return 1

    single = LocalStore(tmp_path / "store", threads=1)
    await single.put("a", b"object")
    monkeypatch.setattr(os, "copy_file_range", held)
    with (tmp_path / "target").open("wb") as target:
        task = asyncio.create_task(single.get_range_to("a", 0, 6, target.fileno()))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    go.set()
    assert await single.get("a") == b"object", "the one thread is free again"
    assert steps == [6]
    await single.close()
