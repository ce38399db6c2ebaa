"""Which generation a pod starts from, and why from none."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import trees
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import ChunkTable, root_name
from buildsvc.cache.signing import SigningKey, VerifyKeys
from buildsvc.errors import (
    CorruptObject,
    ObjectNotFound,
    ShortObject,
    StoreRefused,
    UnreadableObject,
    UnsupportedFormat,
)
from buildsvc.store.contract import MAX_GET, Store
from buildsvc.store.faults import Fail, FaultyStore, Rule
from buildsvc.store.local import LocalStore
from sidecar import databases
from sidecar.databases import Records
from sidecar.download import Downloads
from sidecar.locate import Cold, Found, PassedOver, loadable, locate
from sidecar.losses import Losses
from sidecar.paths import EpochPaths
from sidecar.plan import ObjectKey
from tests.unit.cache.fakes import make_root, make_tree
from tests.unit.sidecar.fakeagent import generation


def key(name: str) -> CacheKey:
    return CacheKey.make(
        tenant="t",
        trust_domain="d",
        name=name,
        platform="linux/amd64",
        buildkit_version="v0.33.1",
    )


MINE, MAIN = key("mine"), key("main")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    made = LocalStore(tmp_path / "store")
    yield made
    await made.close()


@pytest.fixture
def paths(tmp_path: Path) -> EpochPaths:
    made = EpochPaths(tmp_path / "epoch-1")
    made.make()
    return made


async def publish(store: Store, at: CacheKey, directory: Path, marker: bytes = b"") -> Generation:
    log = GenerationLog(store, at)
    directory.mkdir(exist_ok=True)
    root = await asyncio.to_thread(make_root, directory, marker=marker)
    return await log.publish(root, parent=await log.newest())


async def newer_head(store: Store, at: CacheKey, number: int) -> None:
    head = cache_pb2.Head(format_version=99, key=at.text, number=number, buildsvc_version="9.0")
    await store.create(at.head_name(number), head.SerializeToString())


def logs(
    store: Store, keys: Sequence[CacheKey], verify: VerifyKeys | None = None
) -> list[GenerationLog]:
    return [GenerationLog(store, key, verify=verify) for key in keys]


def nothing(over: PassedOver) -> None:
    raise AssertionError(over)


async def as_it_is(found: Found) -> Found:
    return found


async def first(store: Store, keys: Sequence[CacheKey]) -> Found:
    return await locate(logs(store, keys), as_it_is, lambda _: None)


async def test_the_newest_generation_of_the_own_key(store: LocalStore, tmp_path: Path) -> None:
    await publish(store, MAIN, tmp_path / "1")
    await publish(store, MINE, tmp_path / "2")
    newest = await publish(store, MINE, tmp_path / "3", b"changed")
    found = await first(store, [MINE, MAIN])
    assert found.key == MINE
    assert found.generation == newest
    assert found.generation.number == 2


async def test_a_fallback_where_the_own_key_has_none(store: LocalStore, tmp_path: Path) -> None:
    await publish(store, MAIN, tmp_path / "1")
    found = await first(store, [MINE, key("other"), MAIN])
    assert (found.key, found.generation.number) == (MAIN, 1)


async def test_a_newer_format_is_passed_over_for_an_older_generation(
    store: LocalStore, tmp_path: Path
) -> None:
    await publish(store, MINE, tmp_path / "1")
    await newer_head(store, MINE, 2)
    assert (await first(store, [MINE, MAIN])).generation.number == 1


async def test_a_lost_root_is_passed_over_for_an_older_generation(
    store: LocalStore, tmp_path: Path
) -> None:
    await publish(store, MINE, tmp_path / "1")
    newest = await publish(store, MINE, tmp_path / "2", b"changed")
    await store.delete(root_name(newest.head.root))
    assert (await first(store, [MINE])).generation.number == 1


async def test_only_newer_formats_are_a_reason_of_their_own(store: LocalStore) -> None:
    await newer_head(store, MINE, 1)
    with pytest.raises(Cold, match=r"9\.0") as cold:
        await first(store, [MINE])
    assert cold.value.reason == "unsupported-format"


async def test_only_corrupt_generations(store: LocalStore, tmp_path: Path) -> None:
    only = await publish(store, MINE, tmp_path / "1")
    await store.put(root_name(only.head.root), b"not a root")
    with pytest.raises(Cold) as cold:
        await first(store, [MINE])
    assert cold.value.reason == "corrupt"


async def test_a_generation_whose_databases_are_corrupt_is_passed_over(
    store: LocalStore, tmp_path: Path
) -> None:
    await publish(store, MINE, tmp_path / "1")
    await publish(store, MINE, tmp_path / "2")

    async def use(found: Found) -> int:
        if found.generation.number == 2:
            raise CorruptObject("a chunk of the databases")
        return found.generation.number

    assert await locate(logs(store, [MINE]), use, lambda _: None) == 1


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (CorruptObject("a chunk of them"), "corrupt-databases"),
        (ObjectNotFound("a pack of them"), "corrupt-databases"),
        (ShortObject("a pack of them"), "corrupt-databases"),
        (UnsupportedFormat("their tree is newer"), "unsupported-format"),
    ],
)
async def test_only_generations_whose_databases_cannot_be_used(
    store: LocalStore, tmp_path: Path, problem: Exception, reason: str
) -> None:
    older = await publish(store, MINE, tmp_path / "1")
    await publish(store, MINE, tmp_path / "2", b"changed")
    # The newest one tells why.
    await store.put(root_name(older.head.root), b"not a root")

    async def use(_: Found) -> None:
        raise problem

    with pytest.raises(Cold, match=r"of them|newer") as cold:
        await locate(logs(store, [MINE]), use, lambda _: None)
    assert cold.value.reason == reason


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (UnreadableObject("it lies in an archive"), "corrupt"),
        (StoreRefused("HTTP 403"), "store-unavailable"),
    ],
)
@pytest.mark.parametrize("what", ["head", "root", "databases"])
async def test_an_object_that_the_store_does_not_give_is_passed_over(
    store: LocalStore, tmp_path: Path, problem: Exception, reason: str, what: str
) -> None:
    await publish(store, MINE, tmp_path / "1")
    newest = await publish(store, MINE, tmp_path / "2", b"changed")
    names = {"head": MINE.head_name(2), "root": root_name(newest.head.root), "databases": "none"}
    refusing = FaultyStore(store, [Rule("get", names[what], 0, Fail(problem))])
    passed: list[PassedOver] = []

    async def use(found: Found) -> int:
        if what == "databases" and found.generation.number == 2:
            raise problem
        return found.generation.number

    assert await locate(logs(refusing, [MINE]), use, passed.append) == 1
    expected = "corrupt-databases" if (reason, what) == ("corrupt", "databases") else reason
    assert [(over.number, over.reason) for over in passed] == [(2, expected)]


async def test_a_head_of_any_size_is_passed_over(store: LocalStore, tmp_path: Path) -> None:
    await publish(store, MINE, tmp_path / "1")
    await store.create(MINE.head_name(2), b"")
    await asyncio.to_thread(os.truncate, store.path(MINE.head_name(2)), MAX_GET + 1)
    assert (await first(store, [MINE])).generation.number == 1


async def test_a_search_through_false_heads_ends(store: LocalStore, tmp_path: Path) -> None:
    await publish(store, MINE, tmp_path / "1")
    await publish(store, MAIN, tmp_path / "2")
    for number in range(2, 1002):
        await store.create(MINE.head_name(number), b"false")
    seen = FaultyStore(store, [])
    passed: list[PassedOver] = []
    found = await locate(logs(seen, [MINE, MAIN]), as_it_is, passed.append)
    assert found.key == MAIN
    assert [over.number for over in passed] == list(range(1001, 951, -1))
    assert len(seen.calls) < 70


async def test_what_was_passed_over_keeps_nothing_in_memory(
    store: LocalStore, tmp_path: Path
) -> None:
    await publish(store, MINE, tmp_path / "1")
    newest = await publish(store, MINE, tmp_path / "2", b"changed")
    await store.delete(root_name(newest.head.root))
    await store.create(MINE.head_name(3), b"false")
    passed: list[PassedOver] = []
    await locate(logs(store, [MINE]), as_it_is, passed.append)
    assert len(passed) == 2
    for over in passed:
        assert over.problem is not None
        assert over.problem.__traceback__ is None
        assert over.problem.__context__ is over.problem.__cause__ is None


async def test_nothing_was_published(store: LocalStore) -> None:
    with pytest.raises(Cold, match="mine, main") as cold:
        await first(store, [MINE, MAIN])
    assert cold.value.reason == "no-generation"


async def test_a_store_that_does_not_answer(store: LocalStore, tmp_path: Path) -> None:
    await publish(store, MINE, tmp_path / "1")
    dead = FaultyStore(store, [Rule("*", "*", 0, Fail())])
    with pytest.raises(Cold) as cold:
        await first(dead, [MINE])
    assert cold.value.reason == "store-unavailable"


async def test_what_is_passed_over_is_told_in_order(store: LocalStore, tmp_path: Path) -> None:
    await publish(store, MAIN, tmp_path / "1")
    newest = await publish(store, MAIN, tmp_path / "2", b"changed")
    await store.delete(root_name(newest.head.root))
    await newer_head(store, MAIN, 3)
    passed: list[PassedOver] = []
    found = await locate(logs(store, [MINE, MAIN]), as_it_is, passed.append)
    assert (found.key, found.generation.number) == (MAIN, 1)
    assert [(over.key, over.number, over.reason) for over in passed] == [
        (MINE, 0, "no-generation"),
        (MAIN, 3, "unsupported-format"),
        (MAIN, 2, "corrupt"),
    ]
    assert str(passed[0]) == "nothing has been published yet under mine"
    assert str(passed[2]).startswith("generation 2 of main cannot be used: ")


async def test_keys_of_other_domains_are_told_apart(store: LocalStore) -> None:
    other = replace(MINE, trust_domain="protected")
    with pytest.raises(Cold, match=r"under mine, mine in trust domain protected$"):
        await first(store, [MINE, other])


async def test_a_fallback_without_a_generation_is_told_too(store: LocalStore) -> None:
    await newer_head(store, MINE, 1)
    passed: list[PassedOver] = []
    with pytest.raises(Cold):
        await locate(logs(store, [MINE, MAIN]), as_it_is, passed.append)
    assert [over.reason for over in passed] == ["unsupported-format", "no-generation"]


async def test_of_the_newest_generation_there_is_nothing_to_tell(
    store: LocalStore, tmp_path: Path
) -> None:
    await publish(store, MINE, tmp_path / "1")
    assert (await locate(logs(store, [MINE, MAIN]), as_it_is, nothing)).generation.number == 1


async def test_heads_that_are_not_trusted_are_passed_over(
    store: LocalStore, tmp_path: Path
) -> None:
    mine = SigningKey(Ed25519PrivateKey.generate())
    verify = VerifyKeys({(MINE.tenant, MINE.trust_domain): [mine.verify_key]})
    root = await asyncio.to_thread(make_root, tmp_path)
    signed = await GenerationLog(store, MINE, signing=mine).publish(root, parent=None)
    await GenerationLog(store, MINE).publish(root, parent=signed)
    await store.create(MINE.head_name(3), signed.raw)
    passed: list[PassedOver] = []
    found = await locate(logs(store, [MINE], verify), as_it_is, passed.append)
    assert found.generation == signed
    assert [(over.number, over.reason) for over in passed] == [(3, "untrusted"), (2, "untrusted")]

    nobody = VerifyKeys({})
    with pytest.raises(Cold, match="generation 3 of mine cannot be used: head 3: ") as cold:
        await locate(logs(store, [MINE], nobody), as_it_is, passed.append)
    assert cold.value.reason == "untrusted"


async def found_in(store: Store, directory: Path) -> Found:
    directory.mkdir()
    root = await generation(store, directory, {"a": b"A" * 100})
    return Found(MINE, Generation(cache_pb2.Head(number=1), b""), root)


def down(store: Store, paths: EpochPaths) -> Downloads:
    return Downloads.within(1 << 20, store, paths.down, concurrency=2, losses=Losses())


async def test_what_the_daemon_needs_is_there(
    store: LocalStore, paths: EpochPaths, tmp_path: Path
) -> None:
    found = await found_in(store, tmp_path / "packs")
    downloads = down(store, paths)
    ready = await loadable(found, downloads, paths)
    request = ready.request
    assert cache_pb2.Root.FromString(Path(request.root_path).read_bytes()) == found.root
    # A daemon that is started instead, cold, must not see them.
    assert list(paths.buildkit.iterdir()) == []
    await asyncio.to_thread(ready.place, paths.buildkit)
    (database,) = paths.buildkit.iterdir()
    assert database.name == "cache.db"
    assert database.read_bytes()
    assert database.stat().st_mode & 0o777 == 0o600
    assert request.lease_blobs
    assert downloads._slots.staged == 0


@pytest.mark.parametrize("pattern", ["*", "pip", "/root/*", "*/pip"])
async def test_cache_mounts_that_are_to_begin_empty(
    store: LocalStore,
    paths: EpochPaths,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
) -> None:
    found = await found_in(store, tmp_path / "packs")
    (layer,) = found.root.snapshots
    mount = found.root.snapshots.add(info=layer.info, tree=layer.tree)
    mount.info.name, mount.info.kind = "buildkit/7/mount", cache_pb2.SNAPSHOT_KIND_ACTIVE
    mount.info.usage_bytes = 4096
    other = found.root.snapshots.add(info=mount.info, tree=layer.tree)
    other.info.name = "buildkit/8/other"
    before = found.root.SerializeToString()
    mounts = {"mount": ("/root/.cache/pip", "pip"), "other": ("/var/cache/apt",)}
    monkeypatch.setattr(databases, "records", lambda _: Records({}, mounts))
    downloads = down(store, paths)
    ready = await loadable(found, downloads, paths, exclude=["/nothing", pattern])
    told = cache_pb2.Root.FromString(Path(ready.request.root_path).read_bytes())
    assert told == ready.plan.root
    kept, emptied, left = told.snapshots
    assert left.HasField("tree") == (pattern != "*")
    assert (kept, emptied.HasField("tree"), emptied.info.usage_bytes) == (layer, False, 0)
    assert ObjectKey.snapshot(mount.info.name) not in ready.plan.contents
    assert found.root.SerializeToString() == before


async def test_what_is_lost_is_left_out_with_what_is_built_on_it(
    store: LocalStore, paths: EpochPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packs").mkdir()
    layers = {
        "n/1/base": b"B" * 100,
        "n/2/low<n/1/base": b"L" * 100,
        "n/3/up<n/2/low": b"U" * 100,
        "n/4/side<n/1/base": b"S" * 100,
    }
    blob_a, blob_b = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    blobs = {blob_a: b"a" * 100, blob_b: b"b" * 100}
    root = await generation(store, tmp_path / "packs", layers, blobs)
    found = Found(MINE, Generation(cache_pb2.Head(number=1), b""), root)
    ids = {"base": ["rb"], "low": ["rl"], "up": ["ru"], "side": ["rs"], "merge": ["rm"]}
    records = Records(ids, {}, {"rm": ["rs"]}, {blob_a: ["rs"], blob_b: ["rb"]})
    monkeypatch.setattr(databases, "records", lambda _: records)
    downloads = down(store, paths)
    low = next(snapshot for snapshot in root.snapshots if snapshot.info.name == "n/2/low")
    (at,) = ChunkTable(root).locate(low.tree.data)
    downloads.losses.packs.add(at.pack)
    ready = await loadable(found, downloads, paths)
    assert set(ready.unfit) == {"rl", "ru"}
    names = {key.name for key in ready.plan.contents}
    assert names == {"n/1/base", "n/4/side", blob_a, blob_b}
    # The daemon knows it until it has dropped the records, so the agent has to.
    assert cache_pb2.Root.FromString(Path(ready.request.root_path).read_bytes()) == root
    (blob,) = (blob for blob in root.blobs if blob.digest == blob_a)
    (at,) = ChunkTable(root).locate(blob.data)
    downloads.losses.corrupt(at)
    ready = await loadable(found, downloads, paths)
    # A layer of which only the blob is lost goes too, and what holds it.
    assert set(ready.unfit) == {"rl", "ru", "rs", "rm"}
    assert {key.name for key in ready.plan.contents} == {"n/1/base", blob_b}


async def test_a_lost_blob_that_is_no_layer_costs_nothing_else(
    store: LocalStore, paths: EpochPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packs").mkdir()
    layer, manifest = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    blobs = {layer: b"a" * 100, manifest: b"b" * 100}
    root = await generation(store, tmp_path / "packs", {"n/1/base": b"B" * 100}, blobs)
    before = root.SerializeToString()
    found = Found(MINE, Generation(cache_pb2.Head(number=1), b""), root)
    records = Records({"base": ["rb"]}, {}, {}, {layer: ["rb"]})
    forgotten: list[frozenset[str]] = []
    monkeypatch.setattr(databases, "records", lambda _: records)
    monkeypatch.setattr(databases, "forget_blobs", lambda _, digests: forgotten.append(digests))
    downloads = down(store, paths)
    (lost,) = (blob for blob in root.blobs if blob.digest == manifest)
    downloads.losses.corrupt(ChunkTable(root).locate(lost.data)[0])
    ready = await loadable(found, downloads, paths)
    assert ready.unfit == ()
    assert forgotten == [frozenset({manifest})]
    # The agent must not say that it is there.
    told = cache_pb2.Root.FromString(Path(ready.request.root_path).read_bytes())
    assert [blob.digest for blob in told.blobs] == [layer]
    assert {key.name for key in ready.plan.contents} == {"n/1/base", layer}
    assert root.SerializeToString() == before


async def test_a_lost_layer_that_no_record_has(
    store: LocalStore, paths: EpochPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await found_in(store, tmp_path / "packs")
    monkeypatch.setattr(databases, "records", lambda _: Records({}, {}))
    downloads = down(store, paths)
    (layer,) = found.root.snapshots
    downloads.losses.corrupt(ChunkTable(found.root).locate(layer.tree.data)[0])
    with pytest.raises(CorruptObject, match="not known what needs it"):
        await loadable(found, downloads, paths)


async def test_what_is_lost_of_a_generation_whose_records_are_not_there(
    store: LocalStore, paths: EpochPaths, tmp_path: Path
) -> None:
    found = await found_in(store, tmp_path / "packs")
    downloads = down(store, paths)
    (layer,) = found.root.snapshots
    downloads.losses.corrupt(ChunkTable(found.root).locate(layer.tree.data)[0])
    with pytest.raises(CorruptObject, match="what the snapshots are for"):
        await loadable(found, downloads, paths)


_DIRECTORY = cache_pb2.Entry(path=b"", mode=stat.S_IFDIR | 0o700)
_DATABASE = cache_pb2.Entry(path=b"cache.db", mode=stat.S_IFREG | 0o600)


@pytest.mark.parametrize(
    "entries",
    [
        [_DATABASE, cache_pb2.Entry(path=b"executor", mode=stat.S_IFREG | 0o600)],
        [cache_pb2.Entry(path=b"cache.db", mode=stat.S_IFLNK | 0o777, symlink=b"/etc/passwd")],
        [_DATABASE, cache_pb2.Entry(path=b"history.db", mode=stat.S_IFREG, size=2 << 30)],
    ],
)
def test_databases_with_something_else_among_them_are_refused(
    entries: list[cache_pb2.Entry], paths: EpochPaths
) -> None:
    tree = trees.serialise(cache_pb2.Tree(entries=[_DIRECTORY, *entries]))
    with pytest.raises(CorruptObject):
        databases.lay(tree, b"", cache_pb2.Root(), paths.buildkit)
    assert list(paths.buildkit.iterdir()) == []


def test_databases_of_another_tree_are_refused(paths: EpochPaths, tmp_path: Path) -> None:
    tree = trees.serialise(make_tree([(b"cache.db", b"of another generation")]))
    root = make_root(tmp_path)
    with pytest.raises(CorruptObject, match="not those that the tree names"):
        databases.lay(tree, b"of another generation", root, paths.buildkit)
    assert list(paths.buildkit.iterdir()) == []


async def test_corrupt_databases_are_found_before_the_agent_sees_them(
    store: LocalStore, paths: EpochPaths, tmp_path: Path
) -> None:
    found = await found_in(store, tmp_path / "packs")
    for pack in found.root.packs:
        await store.put(pack_name(pack.digest), bytes(pack.size))
    with pytest.raises(CorruptObject):
        await loadable(found, down(store, paths), paths)


async def test_databases_that_are_not_there(
    store: LocalStore, paths: EpochPaths, tmp_path: Path
) -> None:
    found = await found_in(store, tmp_path / "packs")
    for pack in found.root.packs:
        await store.delete(pack_name(pack.digest))
    with pytest.raises(ObjectNotFound):
        await loadable(found, down(store, paths), paths)
