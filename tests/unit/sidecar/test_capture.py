"""Packs on their way up: what is uploaded, kept, tried again, and what the agent's death costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc.aio
import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.chunks import digest
from buildsvc.cache.collectionlog import CollectionLog
from buildsvc.cache.packs import FinishedPack, pack_name
from buildsvc.errors import ObjectNotFound, StoreError
from buildsvc.store.contract import Store
from buildsvc.store.faults import Fail, FaultyStore, Hold, LoseAnswer, Rule
from buildsvc.store.local import LocalStore
from sidecar.capture import Captures, Uploads, restored_blobs, restored_trees
from sidecar.plan import ObjectKey
from sidecar.status import Status
from tests.unit.cache.fakes import make_root, write_pack
from tests.unit.sidecar.fakeagent import FakeAgent, connected


@asynccontextmanager
async def scene(
    tmp_path: Path, agent: FakeAgent, script: Sequence[Rule] = (), *, left_alone: float = 60.0
) -> AsyncIterator[tuple[Captures, Uploads, Catalog, FaultyStore]]:
    store = FaultyStore(LocalStore(tmp_path / "store"), script)
    catalog = Catalog()
    async with connected(agent, tmp_path) as client:
        uploads = Uploads(store, client, catalog, Status(), 2)
        yield Captures(client, uploads, left_alone=left_alone), uploads, catalog, store
    await store.close()


def pack_event(pack: FinishedPack) -> agent_pb2.CaptureEvent:
    return agent_pb2.CaptureEvent(
        pack=agent_pb2.PackFile(
            path=str(pack.path),
            digest=pack.digest,
            size=pack.size,
            chunk_digests=pack.chunk_digests,
            chunk_offsets=pack.chunk_offsets,
            chunk_stored=pack.chunk_stored,
            chunk_lengths=pack.chunk_lengths,
        )
    )


def tree_event(name: str) -> agent_pb2.CaptureEvent:
    tree = agent_pb2.CapturedTree(
        name=name, tree_digests=b"t" * 32, data_digests=b"d" * 64, usage_bytes=3, usage_inodes=4
    )
    return agent_pb2.CaptureEvent(snapshot=tree)


def skipped_event(name: str) -> agent_pb2.CaptureEvent:
    key = ObjectKey.snapshot(name).to_proto()
    return agent_pb2.CaptureEvent(skipped=agent_pb2.SkippedObject(object=key, reason="changed"))


REQUEST = agent_pb2.CaptureRequest(snapshots=["a"])


async def test_a_pack_is_stored_known_and_released(tmp_path: Path) -> None:
    agent = FakeAgent()
    pack = write_pack(tmp_path, [b"content"])
    blob = agent_pb2.CapturedBlob(digest="sha256:b", size=7, mtime_ns=8, data_digests=b"d" * 32)
    databases = agent_pb2.CapturedTree(tree_digests=b"x" * 32)
    agent.captures = [
        [
            tree_event("a"),
            agent_pb2.CaptureEvent(blob=blob),
            pack_event(pack),
            agent_pb2.CaptureEvent(databases=databases),
            skipped_event("gone"),
        ]
    ]
    async with scene(tmp_path, agent) as (captures, uploads, catalog, store):
        skipped = await captures.capture(REQUEST)
        assert await store.get(pack_name(pack.digest)) == pack.path.read_bytes()
    assert skipped == [(ObjectKey.snapshot("gone"), "changed")]
    assert catalog.locate(pack.chunk_digests).pack == pack.digest
    assert agent.released == [str(pack.path)]
    assert (uploads.packs, uploads.bytes) == (1, pack.size)
    assert captures.trees["a"].usage_inodes == 4
    assert captures.blobs["sha256:b"].mtime_ns == 8
    assert [taken.tree for taken in captures._databases] == [b"x" * 32]


async def begin_collection(store: Store) -> int:
    return await CollectionLog(store).begin(0)


async def test_packs_know_of_the_collections_that_began_before_their_upload(
    tmp_path: Path,
) -> None:
    agent = FakeAgent()
    packs = [write_pack(tmp_path, [bytes([n]) * 10]) for n in range(3)]
    agent.captures = [[pack_event(pack)] for pack in packs]
    async with scene(tmp_path, agent) as (captures, uploads, catalog, store):
        assert await begin_collection(store) == 1
        await uploads.learn()
        await captures.capture(REQUEST)
        # It asks once; what publication finds out, it is told.
        assert await begin_collection(store) == 2
        await captures.capture(REQUEST)
        uploads.collection = 2
        await captures.capture(REQUEST)
    root = cache_pb2.Root(packs=[cache_pb2.Pack(digest=pack.digest) for pack in packs])
    assert catalog.unsafe_packs(root, 1) == set()
    assert catalog.unsafe_packs(root, 2) == {packs[0].digest, packs[1].digest}
    assert catalog.unsafe_packs(root, 3) == {pack.digest for pack in packs}


async def test_a_pack_that_is_tried_again_knows_what_was_known_at_first(tmp_path: Path) -> None:
    """The first answer may have been lost, and a collection may have listed the pack."""
    agent = FakeAgent()
    pack = write_pack(tmp_path, [b"content"])
    agent.captures = [[pack_event(pack)]]
    script = [Rule("put_file", "packs/*", 1, LoseAnswer())]
    async with scene(tmp_path, agent, script) as (captures, uploads, catalog, _):
        with suppress(StoreError):
            await captures.capture(REQUEST)
        uploads.collection = 1
        await uploads.flush()
    root = cache_pb2.Root(packs=[cache_pb2.Pack(digest=pack.digest)])
    assert catalog.unsafe_packs(root, 1) == {pack.digest}


async def test_a_store_that_does_not_say_which_collections_there_were(tmp_path: Path) -> None:
    agent = FakeAgent()
    pack = write_pack(tmp_path, [b"content"])
    agent.captures = [[pack_event(pack)]]
    script = [Rule("stat", "collections/*", 1, Fail())]
    async with scene(tmp_path, agent, script) as (captures, uploads, catalog, _):
        uploads.collection = 1
        await uploads.learn()
        await captures.capture(REQUEST)
    root = cache_pb2.Root(packs=[cache_pb2.Pack(digest=pack.digest)])
    assert catalog.unsafe_packs(root, 1) == set()
    assert catalog.unsafe_packs(root, 2) == {pack.digest}


async def test_no_upload_waits_for_what_the_store_says_of_collections(tmp_path: Path) -> None:
    agent = FakeAgent()
    pack = write_pack(tmp_path, [b"content"])
    agent.captures = [[pack_event(pack)]]
    hold = Hold(asyncio.Event())
    script = [Rule("stat", "collections/*", 1, hold)]
    async with scene(tmp_path, agent, script) as (captures, uploads, catalog, _):
        learning = asyncio.create_task(uploads.learn())
        await hold.reached.wait()
        await captures.capture(REQUEST)
        assert digest(b"content") in catalog
        assert not learning.done()
        hold.go.set()
        await learning


async def test_what_the_agent_could_not_capture_again_is_forgotten(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.captures = [[tree_event("a")], [skipped_event("a")]]
    async with scene(tmp_path, agent) as (captures, _, _, _):
        await captures.capture(REQUEST)
        await captures.capture(REQUEST)
    assert captures.trees == {}


async def test_a_pack_that_the_store_refuses_is_kept_until_it_takes_it(tmp_path: Path) -> None:
    agent = FakeAgent()
    packs = [write_pack(tmp_path, [bytes([n]) * 10]) for n in range(2)]
    agent.captures = [[*map(pack_event, packs), tree_event("a")]]
    script = [Rule("put_file", "packs/*", call, Fail()) for call in (1, 2, 3)]
    async with scene(tmp_path, agent, script) as (captures, uploads, catalog, store):
        with pytest.raises(StoreError):
            await captures.capture(REQUEST)
        assert len(catalog) == 0
        assert agent.released == []
        # The third refusal met the capture or, when both uploads were still on their way, this.
        with suppress(StoreError):
            await captures.drained()
        await captures.drained()
        await uploads.flush()
        assert "a" in captures.trees
        assert len(catalog) == 2
        for pack in packs:
            assert await store.get(pack_name(pack.digest))
    assert sorted(agent.released) == sorted(str(pack.path) for pack in packs)


async def test_a_capture_without_room_goes_on_when_the_store_takes_packs_again(
    tmp_path: Path,
) -> None:
    agent = FakeAgent()
    agent.full = True
    pack = write_pack(tmp_path, [b"content"])
    agent.captures = [[pack_event(pack), tree_event("a")]]
    script = [Rule("put_file", "packs/*", call, Fail()) for call in (1, 2)]
    async with asyncio.timeout(20), scene(tmp_path, agent, script) as (captures, _, catalog, _):
        with pytest.raises(StoreError):
            await captures.capture(REQUEST)
        assert "a" not in captures.trees
        # The next checkpoint waits for the same capture, which was not cut short.
        await captures.drained()
        assert "a" in captures.trees
        assert len(catalog) == 1
        assert len(agent.captured) == 1


async def test_an_agent_that_dies_in_a_capture_is_told_by_its_own_error(tmp_path: Path) -> None:
    agent = FakeAgent()
    pack = write_pack(tmp_path, [b"content"])
    agent.captures = [[pack_event(pack), tree_event("a")]]
    agent.breaks_at = 0
    go = asyncio.Event()
    held = Hold(go)
    async with scene(tmp_path, agent, [Rule("put_file", "*", 1, held)]) as (
        captures, _, catalog, store,
    ):  # fmt: skip
        task = asyncio.create_task(captures.capture(REQUEST))
        await held.reached.wait()
        go.set()
        with pytest.raises(grpc.aio.AioRpcError):
            await task
        # To a living agent the chunks of a pack that it handed over count as stored.
        assert await store.get(pack_name(pack.digest))
        assert len(catalog) == 1


async def test_a_pack_file_that_is_gone_is_an_error_of_its_own(tmp_path: Path) -> None:
    agent = FakeAgent()
    pack = write_pack(tmp_path, [b"content"])
    pack.path.unlink()
    agent.captures = [[pack_event(pack)]]
    async with scene(tmp_path, agent) as (captures, _, catalog, store):
        with pytest.raises(OSError, match="No such file"):
            await captures.capture(REQUEST)
        with pytest.raises(ObjectNotFound):
            await store.get(pack_name(pack.digest))
        assert len(catalog) == 0


async def test_committed_snapshots_are_captured_once_at_idle_priority(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.captures = [[tree_event("a")], [tree_event("b")]]
    async with scene(tmp_path, agent) as (captures, _, _, _):
        running = asyncio.create_task(captures.run())
        for name in ("a", "b", "a"):
            captures.committed(name)
        await captures.drained()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [(list(r.snapshots), r.idle) for r in agent.captured] == [(["a"], True), (["b"], True)]


@pytest.mark.parametrize(
    ("left_alone", "order"), [(3600.0, ["other", "other", "a"]), (0.0, ["a", "other", "other"])]
)
async def test_what_a_build_commits_waits_for_its_end_for_some_time(
    tmp_path: Path, left_alone: float, order: list[str]
) -> None:
    agent = FakeAgent()
    agent.captures = [[tree_event(name)] for name in order]
    other = agent_pb2.CaptureRequest(snapshots=["other"])
    async with scene(tmp_path, agent, left_alone=left_alone) as (captures, _, _, _):
        running = asyncio.create_task(captures.run())
        captures.builds_run(running=True)
        captures.committed("a")
        if not left_alone:
            await captures._committed.join()
        # By the second one's answer the agent has what was asked for before.
        for _ in range(2):
            await captures.capture(other)
        captures.builds_run(running=False)
        await captures.drained()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [name for request in agent.captured for name in request.snapshots] == order


async def test_nobody_waits_for_what_waits_for_a_builds_end(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.captures = [[tree_event("a")]]
    async with scene(tmp_path, agent) as (captures, _, _, _):
        captures.builds_run(running=True)
        running = asyncio.create_task(captures.run())
        captures.committed("a")
        assert not await captures.drained()
        captures.builds_run(running=False)
        assert await captures.drained()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert list(captures.trees) == ["a"]


async def test_a_capture_that_fails_does_not_end_those_that_follow(tmp_path: Path) -> None:
    agent = FakeAgent()
    agent.captures = [[], [tree_event("b")]]
    agent.breaks_at = 0
    async with scene(tmp_path, agent) as (captures, _, _, _):
        running = asyncio.create_task(captures.run())
        captures.committed("a")
        captures.committed("b")
        await captures.drained()
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert list(captures.trees) == ["b"]


def test_what_a_generation_has_counts_as_captured(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    trees, blobs = restored_trees(root), restored_blobs(root)
    assert sorted(trees) == ["buildkit/1/lower", "buildkit/2/upper"]
    tree = trees["buildkit/1/lower"]
    assert (len(tree.tree), len(tree.data), tree.usage_bytes) == (32, 64, 7)
    (blob,) = blobs.values()
    assert (blob.size, blob.mtime_ns, len(blob.data)) == (1500, 5, 32)


async def test_what_was_captured_of_a_lost_pack_is_forgotten(tmp_path: Path) -> None:
    agent = FakeAgent()
    lost = write_pack(tmp_path, [b"one", b"two"])
    kept = write_pack(tmp_path, [b"three"])
    one, other = tree_event("a"), tree_event("b")
    one.snapshot.data_digests = lost.chunk_digests
    one.snapshot.tree_digests = other.snapshot.data_digests = kept.chunk_digests
    other.snapshot.tree_digests = kept.chunk_digests
    agent.captures = [[pack_event(lost), pack_event(kept), one, other]]
    async with scene(tmp_path, agent) as (captures, _, catalog, _):
        await captures.capture(REQUEST)
        await captures.forget_packs({lost.digest})
        await captures.forget_packs({lost.digest})
        assert list(captures.trees) == ["b"]
        assert agent.forgotten == [lost.chunk_digests]
        assert len(catalog) == 1


async def test_an_agent_that_has_not_heard_of_a_lost_pack_is_told_again(tmp_path: Path) -> None:
    agent = FakeAgent()
    lost = write_pack(tmp_path, [b"one"])
    one = tree_event("a")
    one.snapshot.data_digests = one.snapshot.tree_digests = lost.chunk_digests
    agent.captures = [[pack_event(lost), one]]
    agent.forget_fails = True
    async with scene(tmp_path, agent) as (captures, _, _, _):
        await captures.capture(REQUEST)
        with pytest.raises(grpc.aio.AioRpcError):
            await captures.forget_packs({lost.digest})
        agent.forget_fails = False
        await captures.forget_packs({lost.digest})
        assert agent.forgotten == [lost.chunk_digests]
        assert captures.trees == {}


async def test_a_lost_pack_that_is_stored_again_is_not_lost(tmp_path: Path) -> None:
    agent = FakeAgent()
    pack = write_pack(tmp_path, [b"one"])
    one = tree_event("a")
    one.snapshot.data_digests = one.snapshot.tree_digests = pack.chunk_digests
    agent.captures = [[pack_event(pack), one]] * 2
    async with scene(tmp_path, agent) as (captures, _, catalog, _):
        await captures.capture(REQUEST)
        await captures.forget_packs({pack.digest})
        await captures.capture(REQUEST)
        await captures.forget_packs({pack.digest})
        assert len(agent.forgotten) == 1
        assert pack.chunk_digests in catalog
        assert "a" in captures.trees
