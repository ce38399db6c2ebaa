"""The packing process: its packs are enough to restore from, whenever it was killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks, packs
from sidecar.agent import messages
from sidecar.agent.packing import Events, PackerClient
from sidecar.agent.process import Process
from sidecar.agent.workers import DEATHS

MEGABYTES = 150


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    (tmp_path / "up").mkdir()
    return tmp_path / "up"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(os.urandom(100_000))
    return tmp_path / "source"


@pytest.fixture
async def client(staging: Path) -> AsyncIterator[PackerClient]:
    async with PackerClient(staging) as client:
        yield client


class Stored:
    """What a sidecar would have stored."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}
        self.packs: list[agent_pb2.PackFile] = []

    async def take(self, client: PackerClient, events: Events) -> list[agent_pb2.CaptureEvent]:
        """All events but packs, which are stored and released."""
        others = []
        async with aclosing(events):
            async for event in events:
                if event.WhichOneof("event") == "pack":
                    self.store(event.pack)
                    await client.release(Path(event.pack.path))
                else:
                    others.append(event)
        return others

    def store(self, pack: agent_pb2.PackFile) -> None:
        data = Path(pack.path).read_bytes()
        assert len(data) == pack.size
        index = packs.verify(data, pack.digest)
        assert b"".join(index.digests) == pack.chunk_digests
        columns = zip(pack.chunk_offsets, pack.chunk_stored, pack.chunk_lengths, strict=True)
        for digest, (offset, stored, length) in zip(index.digests, columns, strict=True):
            self.chunks[digest] = chunks.decode(data[offset : offset + stored], length, digest)
        self.packs.append(pack)

    def has(self, *columns: bytes) -> bool:
        return all(
            digest in self.chunks for each in columns for digest in chunks.split_digests(each)
        )


def big(path: Path, megabytes: int = 60) -> Path:
    """A tree of several packs that compression does not make fewer."""
    path.mkdir()
    for number in range(megabytes // 10):
        (path / f"file{number}").write_bytes(os.urandom(10 << 20))
    return path


def kill(client: PackerClient) -> None:
    assert client._process is not None
    client._process.kill()


async def started(client: PackerClient) -> None:
    """The process starts with the first thing that it is to do."""
    assert await Stored().take(client, client.flush()) == []


async def dead(client: PackerClient) -> None:
    kill(client)
    assert client._process is not None
    await client._process._process.wait()


async def test_what_is_captured_is_in_packs(
    client: PackerClient, source: Path, staging: Path, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(os.urandom(1 << 20))
    digest = "sha256:" + hashlib.sha256(blob.read_bytes()).hexdigest()
    (databases := tmp_path / "databases").mkdir()
    (databases / "cache.db").write_bytes(b"db" * 10_000)
    stored = Stored()
    (tree,) = await stored.take(
        client, client.capture_snapshot("s", source, idle=True, again=False)
    )
    (content,) = await stored.take(client, client.capture_blob(digest, blob, idle=False))
    (state,) = await stored.take(client, client.capture_directory(databases, idle=True))
    assert not stored.packs
    assert not await stored.take(client, client.flush())
    assert len(stored.packs) == 1
    assert (tree.snapshot.name, tree.snapshot.usage_inodes) == ("s", 2)
    assert (content.blob.digest, content.blob.size) == (digest, 1 << 20)
    assert state.databases.data_digests
    assert stored.has(tree.snapshot.tree_digests, tree.snapshot.data_digests)
    assert stored.has(content.blob.data_digests, state.databases.data_digests)
    assert os.listdir(staging) == []
    assert not await stored.take(client, client.flush())
    assert len(stored.packs) == 1


async def test_a_known_chunk_is_not_packed(
    client: PackerClient, source: Path, tmp_path: Path
) -> None:
    stored = Stored()
    await stored.take(client, client.capture_snapshot("s", source, idle=False, again=False))
    await stored.take(client, client.flush())
    root = tmp_path / "root"
    root.write_bytes(cache_pb2.Root(chunk_digests=b"".join(stored.chunks)).SerializeToString())
    (other := tmp_path / "other").mkdir()
    async with PackerClient(other) as fresh:
        await fresh.know(root)
        again = Stored()
        for _ in range(2):
            capture = fresh.capture_snapshot("s", source, idle=False, again=False)
            assert len(await again.take(fresh, capture)) == 1
            await again.take(fresh, fresh.flush())
            # What was known is so in the next process, too.
            await dead(fresh)
        assert not again.packs


async def test_a_forgotten_chunk_is_packed_again(client: PackerClient, source: Path) -> None:
    stored = Stored()
    for again in (False, True, False):
        # Whether the process lives on or not.
        capture = client.capture_snapshot("s", source, idle=False, again=True)
        await stored.take(client, capture)
        await stored.take(client, client.flush())
        packed = set(stored.chunks)
        assert packed
        await client.forget(b"".join(packed))
        if again:
            await dead(client)
        stored = Stored()
        capture = client.capture_snapshot("s", source, idle=False, again=True)
        await stored.take(client, capture)
        await stored.take(client, client.flush())
        assert set(stored.chunks) == packed
        await client.forget(b"".join(packed))
        stored = Stored()


async def test_what_cannot_be_captured_is_skipped(client: PackerClient, tmp_path: Path) -> None:
    stored = Stored()
    (event,) = await stored.take(
        client, client.capture_snapshot("gone", tmp_path / "gone", idle=False, again=False)
    )
    assert event.skipped.object.name == "gone"
    assert "No such file" in event.skipped.reason
    (tmp_path / "blob").touch()
    (event,) = await stored.take(
        client, client.capture_blob("sha256:" + 64 * "0", tmp_path / "blob", idle=False)
    )
    assert event.skipped.object.kind == agent_pb2.OBJECT_KIND_BLOB
    assert not stored.packs


async def test_packs_wait_until_there_is_room(
    tmp_path: Path, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proceeds = []
    send = Process.send

    async def sending(self: Process, request: messages.Request) -> None:
        if isinstance(request, messages.Proceed):
            proceeds.append(request)
        await send(self, request)

    monkeypatch.setattr(Process, "send", sending)
    stored = Stored()
    async with PackerClient(staging, packs=2) as client:
        capture = client.capture_snapshot("s", big(tmp_path / "big", 80), idle=False, again=False)
        async with aclosing(capture):
            first = (await anext(capture)).pack
            second = (await anext(capture)).pack
            assert len(proceeds) == 1
            waiting = asyncio.ensure_future(anext(capture))
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(proceeds) == 1
            assert len(os.listdir(staging)) == 2
            await client.release(Path(first.path))
            third = (await waiting).pack
            assert len(proceeds) == 2
            assert {Path(pack.path).name for pack in (second, third)} == set(os.listdir(staging))
            await client.release(Path(second.path))
            await client.release(Path(third.path))
            assert len(await stored.take(client, capture)) == 1


async def test_a_capture_survives_its_process(
    client: PackerClient, tmp_path: Path, staging: Path
) -> None:
    source = big(tmp_path / "big")
    stored = Stored()
    capture = client.capture_snapshot("s", source, idle=False, again=False)
    others = []
    kills = 0
    async with aclosing(capture):
        async for event in capture:
            if event.WhichOneof("event") == "pack":
                stored.store(event.pack)
                await client.release(Path(event.pack.path))
                if kills < DEATHS - 1:
                    kills += 1
                    kill(client)
            else:
                others.append(event)
    (tree,) = others
    await stored.take(client, client.flush())
    assert kills == DEATHS - 1
    assert stored.has(tree.snapshot.tree_digests, tree.snapshot.data_digests)
    assert os.listdir(staging) == []
    # What was in finished packs was not packed again.
    total = sum(pack.size for pack in stored.packs)
    assert total < 70 << 20


async def test_what_was_only_in_a_lost_pack_is_captured_again(
    client: PackerClient, source: Path, tmp_path: Path, staging: Path
) -> None:
    stored = Stored()
    (tree,) = await stored.take(
        client, client.capture_snapshot("s", source, idle=True, again=False)
    )
    await dead(client)
    assert len(os.listdir(staging)) == 1
    (tmp_path / "other").mkdir()
    (other,) = await stored.take(
        client, client.capture_snapshot("o", tmp_path / "other", idle=True, again=False)
    )
    assert not await stored.take(client, client.flush())
    assert stored.has(tree.snapshot.tree_digests, tree.snapshot.data_digests)
    assert stored.has(other.snapshot.tree_digests)
    assert os.listdir(staging) == []


async def test_a_lost_capture_that_changed_is_taken_back(
    client: PackerClient, source: Path
) -> None:
    stored = Stored()
    await stored.take(client, client.capture_snapshot("s", source, idle=True, again=True))
    await dead(client)
    (source / "file").write_bytes(b"changed")
    (event,) = await stored.take(client, client.flush())
    assert event.skipped.object.name == "s"


async def test_a_capture_that_kills_its_process_is_skipped(
    client: PackerClient, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Stored()
    (tree,) = await stored.take(
        client, client.capture_snapshot("s", source, idle=True, again=False)
    )
    send = Process.send

    async def killing(self: Process, request: messages.Request) -> None:
        if isinstance(request, messages.CaptureBlob):
            self.kill()
        await send(self, request)

    monkeypatch.setattr(Process, "send", killing)
    (event,) = await stored.take(
        client, client.capture_blob("sha256:" + 64 * "0", source / "file", idle=False)
    )
    assert "died" in event.skipped.reason
    assert not await stored.take(client, client.flush())
    assert stored.has(tree.snapshot.tree_digests, tree.snapshot.data_digests)


async def test_a_generator_closed_early_leaves_a_client_that_works(
    client: PackerClient, tmp_path: Path, source: Path, staging: Path
) -> None:
    stored = Stored()
    capture = client.capture_snapshot("b", big(tmp_path / "big"), idle=False, again=False)
    async with aclosing(capture):
        pack = (await anext(capture)).pack
    assert os.listdir(staging) == [Path(pack.path).name]
    stored.store(pack)
    await client.release(Path(pack.path))
    (tree,) = await stored.take(
        client, client.capture_snapshot("s", source, idle=False, again=False)
    )
    await stored.take(client, client.flush())
    assert stored.has(tree.snapshot.tree_digests, tree.snapshot.data_digests)


async def test_a_cancelled_capture_lets_the_next_one_in(client: PackerClient, source: Path) -> None:
    stored = Stored()
    await started(client)
    assert client._process is not None
    os.kill(client._process.pid, signal.SIGSTOP)
    capture = asyncio.create_task(
        stored.take(client, client.capture_snapshot("s", source, idle=False, again=False))
    )
    await asyncio.sleep(0)
    capture.cancel()
    with pytest.raises(asyncio.CancelledError):
        await capture
    (tree,) = await stored.take(
        client, client.capture_snapshot("s", source, idle=False, again=False)
    )
    assert tree.snapshot.data_digests


async def test_release_deletes_nothing_else(
    client: PackerClient, source: Path, staging: Path, tmp_path: Path
) -> None:
    await Stored().take(client, client.capture_snapshot("s", source, idle=False, again=False))
    await client.release(source / "file")
    (name,) = os.listdir(staging)
    await client.release(staging / name)
    await client.release(tmp_path / "up" / "nothing")
    assert (source / "file").exists()
    assert os.listdir(staging) == [name]


async def test_a_staging_directory_that_fails_skips_and_recovers(
    client: PackerClient, source: Path, staging: Path
) -> None:
    stored = Stored()
    await started(client)
    staging.rmdir()
    (event,) = await stored.take(
        client, client.capture_snapshot("s", source, idle=False, again=False)
    )
    assert "pack cannot be written" in event.skipped.reason
    staging.mkdir()
    (tree,) = await stored.take(
        client, client.capture_snapshot("s", source, idle=False, again=False)
    )
    await stored.take(client, client.flush())
    assert stored.has(tree.snapshot.tree_digests, tree.snapshot.data_digests)


async def test_memory_does_not_grow_with_a_file(client: PackerClient, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/large").write_bytes(os.urandom(1 << 20) * 320)
    await Stored().take(
        client, client.capture_snapshot("s", tmp_path / "source", idle=False, again=False)
    )
    assert client._process is not None
    status = Path(f"/proc/{client._process.pid}/status").read_text()
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    assert int(peak) / 1024 < MEGABYTES
