from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from sidecar.agent import leases
from sidecar.agent.leases import Blob, LeasedBlobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

SIZE = 8192
READER = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"


class Holder:
    """A guard in this process: its copies are real ones."""

    def __init__(self) -> None:
        self.copies: dict[int, int] = {}

    def hold(self, identifiers: Sequence[int], descriptors: Sequence[int]) -> None:
        for identifier, descriptor in zip(identifiers, descriptors, strict=True):
            assert identifier not in self.copies
            self.copies[identifier] = os.dup(descriptor)

    def drop(self, identifiers: Sequence[int]) -> None:
        for identifier in identifiers:
            os.close(self.copies.pop(identifier))


class Scene:
    def __init__(self, directory: Path, break_time: float) -> None:
        self.directory = directory
        self.holder = Holder()
        self.broken: asyncio.Queue[str] = asyncio.Queue()
        self.lost: asyncio.Queue[str] = asyncio.Queue()
        self.blobs = LeasedBlobs(
            self.holder, self.broken.put_nowait, self.lost.put_nowait, break_time=break_time
        )

    def blob(self, digest: str, size: int = SIZE) -> Blob:
        return Blob(digest, self.directory / digest, size, 1_700_000_000_123_456_789)

    async def reader(self, digest: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            "-c",
            READER,
            str(self.directory / digest),
            stdout=asyncio.subprocess.PIPE,
        )


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    signal.signal(signal.SIGIO, signal.SIG_DFL)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    it = Scene(tmp_path, leases.break_time())
    it.blobs.start()
    yield it
    it.blobs.close()
    for digest in [path.name for path in tmp_path.iterdir() if it.blobs.holds(path.name)]:
        it.blobs.release(digest)
    assert it.holder.copies == {}


async def test_what_is_placed_looks_like_the_blob_and_breaks_nothing(scene: Scene) -> None:
    assert scene.blobs.place([scene.blob("a"), scene.blob("b", 0)]) == []
    status = os.stat(scene.directory / "a")
    assert (status.st_size, status.st_mode & 0o777) == (SIZE, 0o444)
    assert status.st_mtime_ns == 1_700_000_000_123_456_789
    assert os.listdir(scene.directory)
    assert len(scene.holder.copies) == 2
    assert scene.blobs.holds("a")
    assert scene.blobs.pending() == 0


async def test_an_opener_waits_until_the_bytes_are_there(scene: Scene) -> None:
    scene.blobs.place(scene.blob(name) for name in "abc")
    reader = await scene.reader("b")
    assert await scene.broken.get() == "b"
    assert scene.blobs.pending() == 1
    content = os.urandom(SIZE)
    os.pwrite(scene.blobs.descriptor("b"), content, 0)
    scene.blobs.release("b")
    assert (await reader.communicate())[0] == content
    assert os.stat(scene.directory / "b").st_mtime_ns == 1_700_000_000_123_456_789
    assert (scene.blobs.pending(), scene.blobs.holds("b"), scene.blobs.holds("a")) == (
        0,
        False,
        True,
    )
    assert scene.lost.empty()


async def test_a_break_is_told_once_however_many_wait(scene: Scene) -> None:
    scene.blobs.place([scene.blob("a"), scene.blob("b")])
    readers = [await scene.reader("a") for _ in range(3)]
    assert await scene.broken.get() == "a"
    readers.append(await scene.reader("b"))
    assert await scene.broken.get() == "b"
    for digest in "ab":
        os.pwrite(scene.blobs.descriptor(digest), b"x" * SIZE, 0)
        scene.blobs.release(digest)
    for reader in readers:
        assert (await reader.communicate())[0] == b"x" * SIZE
    assert scene.broken.empty()


async def test_a_blob_released_before_anybody_asks_opens_at_once(scene: Scene) -> None:
    scene.blobs.place([scene.blob("a")])
    os.pwrite(scene.blobs.descriptor("a"), b"y" * SIZE, 0)
    scene.blobs.release("a")
    assert (scene.directory / "a").read_bytes() == b"y" * SIZE
    assert scene.lost.empty()


async def test_what_comes_after_the_time_is_a_loss_though_the_timer_has_not_run(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a pod that was frozen: the kernel has let the opener go on."""
    scene.blobs.place([scene.blob("a")])
    reader = await scene.reader("a")
    assert await scene.broken.get() == "a"
    loop = asyncio.get_running_loop()
    later = loop.time() + leases.break_time()
    with monkeypatch.context() as patched:
        patched.setattr(loop, "time", lambda: later)
        scene.blobs.release("a")
    assert "stopped waiting" in scene.lost.get_nowait()
    await reader.communicate()


async def test_a_lease_that_ended_without_us_is_a_loss(scene: Scene) -> None:
    scene.blobs.place([scene.blob("a")])
    # What the kernel does when lease-break-time is over.
    fcntl.fcntl(scene.blobs.descriptor("a"), fcntl.F_SETLEASE, fcntl.F_UNLCK)
    scene.blobs.release("a")
    assert "a had ended" in scene.lost.get_nowait()


async def test_a_break_not_served_in_time_is_a_loss_before_the_kernel_gives_up(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, leases.MARGIN)  # leaves no time at all
    scene.blobs.start()
    scene.blobs.place([scene.blob("a")])
    reader = await scene.reader("a")
    assert await scene.broken.get() == "a"
    assert "blob a could not be had" in await scene.lost.get()
    assert reader.returncode is None
    scene.blobs.release("a")
    await reader.communicate()
    scene.blobs.close()


async def test_unlinked_blobs_give_their_descriptors_back(scene: Scene) -> None:
    scene.blobs.place([scene.blob("a"), scene.blob("b"), scene.blob("c")])
    waiting = await scene.reader("c")
    assert await scene.broken.get() == "c"
    for digest in "ac":
        os.unlink(scene.directory / digest)
    before = len(os.listdir("/proc/self/fd"))
    assert scene.blobs.sweep() == ["a"]
    assert len(os.listdir("/proc/self/fd")) == before - 2
    # Somebody has it open in all but name: its bytes are still wanted.
    assert scene.blobs.holds("c")
    os.pwrite(scene.blobs.descriptor("c"), b"z" * SIZE, 0)
    scene.blobs.release("c")
    assert (await waiting.communicate())[0] == b"z" * SIZE


async def test_blobs_beyond_the_descriptor_limit_are_left_out(scene: Scene) -> None:
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (leases.RESERVE + 3, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    left = scene.blobs.place(scene.blob(str(number)) for number in range(5))
    assert left == ["3", "4"]
    assert sorted(os.listdir(scene.directory)) == ["0", "1", "2"]
    assert scene.blobs.place([scene.blob("5")]) == ["5"]


async def test_nothing_is_kept_of_a_placement_that_failed(scene: Scene) -> None:
    (scene.directory / "b").touch()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileExistsError):
        scene.blobs.place([scene.blob("a"), scene.blob("b")])
    assert len(os.listdir("/proc/self/fd")) == before
    assert not scene.blobs.holds("a")
    assert os.listdir(scene.directory) == ["b"]


async def test_probe_finds_that_leases_work(tmp_path: Path) -> None:
    assert await leases.probe(tmp_path) is None
    assert os.listdir(tmp_path) == []


async def test_probe_says_why_not(tmp_path: Path) -> None:
    assert "No such file" in str(await leases.probe(tmp_path / "missing"))
