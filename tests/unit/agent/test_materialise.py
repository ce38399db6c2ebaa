"""Round trips: what was captured comes back exactly, whatever happened on the way."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks, trees
from buildsvc.errors import CorruptObject
from sidecar.agent.layout import Layout, Layouts
from sidecar.agent.materialise import Materialiser
from sidecar.agent.staged import StagedChunk
from tests.unit.agent.ondisk import DIRECTORY, Cache, describe, make_everything, write_sparse


def test_everything_comes_back_exactly(tmp_path: Path, cache: Cache) -> None:
    make_everything(tmp_path / "source")
    captured = cache.packer.capture_tree(tmp_path / "source")
    cache.restore(captured, tmp_path / "target")
    assert describe(tmp_path / "target") == describe(tmp_path / "source")


def test_the_copy_is_captured_as_the_original(tmp_path: Path, cache: Cache) -> None:
    make_everything(tmp_path / "source")
    captured = cache.packer.capture_tree(tmp_path / "source")
    cache.restore(captured, tmp_path / "target")
    again = cache.packer.capture_tree(tmp_path / "target")
    assert (again.tree_digests, again.data_digests) == (
        captured.tree_digests,
        captured.data_digests,
    )


def test_paths_beyond_path_max_come_back(tmp_path: Path, cache: Cache) -> None:
    names = [b"%03d" % level + b"n" * 200 for level in range(150)]
    descriptors = [os.open(tmp_path, DIRECTORY)]
    for name in [b"source", *names]:
        os.mkdir(name, dir_fd=descriptors[-1])
        descriptors.append(os.open(name, DIRECTORY, dir_fd=descriptors[-1]))
    for descriptor in descriptors[2::10]:
        for name in (b"a", b"b"):
            file = os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
            os.write(file, name * 100_000)
            os.close(file)
    os.link(b"a", b"c", src_dir_fd=descriptors[2], dst_dir_fd=descriptors[-1])
    for descriptor in descriptors:
        os.close(descriptor)
    captured = cache.packer.capture_tree(tmp_path / "source")
    cache.restore(captured, tmp_path / "target")
    expected = describe(tmp_path / "source")
    assert max(map(len, expected)) > 150 * 200
    assert describe(tmp_path / "target") == expected
    subprocess.run(["rm", "-r", tmp_path / "source", tmp_path / "target"], check=True)


def test_every_step_may_be_repeated(tmp_path: Path, cache: Cache) -> None:
    make_everything(tmp_path / "source")
    captured = cache.packer.capture_tree(tmp_path / "source")
    cache.restore(captured, tmp_path / "target")
    layout = Layout(trees.parse(cache.read(captured.tree_digests)))
    materialiser = Materialiser(layout, os.fsencode(tmp_path / "target"))
    segments = cache.segments(captured.data_digests)
    for _ in range(2):
        for _ in range(2):
            materialiser.prepare()
        for path, staged in segments.items():
            for _ in range(2):
                assert not materialiser.fill(os.fsencode(path), staged).corrupt
        for _ in range(2):
            materialiser.finish()
    assert describe(tmp_path / "target") == describe(tmp_path / "source")


def test_the_umask_does_not_matter(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"x")
    (tmp_path / "source/file").chmod(0o666)
    captured = cache.packer.capture_tree(tmp_path / "source")
    umask = os.umask(0o077)
    try:
        cache.restore(captured, tmp_path / "target")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(umask)
    assert describe(tmp_path / "target") == describe(tmp_path / "source")


def test_a_corrupt_chunk_is_named_and_may_come_again(tmp_path: Path, cache: Cache) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in "ab":
        (source / name).write_bytes(os.urandom(500_000))
    captured = cache.packer.capture_tree(source)
    layout = Layout(trees.parse(cache.read(captured.tree_digests)))
    ((path, staged),) = cache.segments(captured.data_digests).items()
    broken = tmp_path / "broken"
    data = bytearray(path.read_bytes())
    data[staged[1].offset + 5] ^= 1
    broken.write_bytes(data)
    materialiser = Materialiser(layout, os.fsencode(target))
    materialiser.prepare()
    filled = materialiser.fill(os.fsencode(broken), staged)
    assert filled.corrupt == [1]
    assert not materialiser.fill(os.fsencode(path), staged[1:2]).corrupt
    materialiser.finish()
    assert describe(target) == describe(source)


@pytest.mark.parametrize(
    "wrong",
    [StagedChunk(0, 0, 0), StagedChunk(0, 1 << 40, 10), StagedChunk(0, 0, 1 << 30)],
    ids=["nothing", "beyond the end", "longer than the chunk"],
)
def test_a_segment_that_lies_is_corrupt(tmp_path: Path, cache: Cache, wrong: StagedChunk) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(b"content")
    captured = cache.packer.capture_tree(tmp_path / "source")
    layout = Layout(trees.parse(cache.read(captured.tree_digests)))
    (path,) = cache.segments(captured.data_digests)
    (tmp_path / "target").mkdir()
    materialiser = Materialiser(layout, os.fsencode(tmp_path / "target"))
    materialiser.prepare()
    assert materialiser.fill(os.fsencode(path), [wrong]).corrupt == [0]
    with pytest.raises(CorruptObject):
        materialiser.fill(os.fsencode(path), [StagedChunk(9, 0, 1)])


def _tree(*entries: cache_pb2.Entry) -> cache_pb2.Tree:
    """A tree of this process's own files."""
    root = cache_pb2.Entry(mode=stat.S_IFDIR | 0o755)
    tree = cache_pb2.Tree(
        chunk_digests=chunks.digest(b"evil"), chunk_lengths=[4], entries=[root, *entries]
    )
    for entry in tree.entries:
        entry.uid, entry.gid = os.geteuid(), os.getegid()
    return tree


def test_many_pieces_take_little_memory() -> None:
    count = 60_000
    tree = _tree(*(cache_pb2.Entry(path=b"%d" % n, mode=0o100644, size=count) for n in range(4)))
    tree.chunk_digests, tree.chunk_lengths[:] = bytes(32), [1]
    for entry in tree.entries[1:]:
        for at in range(count):
            entry.pieces.add(length=1, file_offset=at)
    valid = trees.parse(trees.serialise(tree))
    tracemalloc.start()
    try:
        layout = Layout(valid)
        # Three numbers of four bytes each, and what an array has to grow.
        assert tracemalloc.get_traced_memory()[1] < 4 * count * 3 * 4 * 1.5
    finally:
        tracemalloc.stop()
    assert sorted(layout.scattered(0)) == [(n, at) for n in range(1, 5) for at in range(count)]
    assert layout.wanted(bytes([1, 1, 1, 1, 0])) == [0]
    assert layout.wanted(bytes([1] * 5)) == []


def _layout(*entries: cache_pb2.Entry) -> Layout:
    return Layout(trees.parse(trees.serialise(_tree(*entries))))


def _file(path: bytes) -> cache_pb2.Entry:
    piece = cache_pb2.Piece(chunk=0, length=4)
    return cache_pb2.Entry(path=path, mode=stat.S_IFREG | 0o644, size=4, pieces=[piece])


@pytest.mark.parametrize("link", [b"dir", b"dir/sub"])
def test_a_link_in_the_place_of_a_directory_is_not_followed(tmp_path: Path, link: bytes) -> None:
    """Even if somebody else could write to the target, nothing outside it is touched."""
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.mkdir()
    (outside / "sub").mkdir()
    directory = stat.S_IFDIR | 0o755
    layout = _layout(
        cache_pb2.Entry(path=b"dir", mode=directory),
        cache_pb2.Entry(path=b"dir/sub", mode=directory),
        _file(b"dir/sub/file"),
    )
    segment = tmp_path / "segment"
    segment.write_bytes(b"evil")
    materialiser = Materialiser(layout, os.fsencode(target))
    materialiser.prepare()
    (target / "dir/sub").rmdir()
    if link == b"dir":
        (target / "dir").rmdir()
    (target / os.fsdecode(link)).symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        materialiser.fill(os.fsencode(segment), [StagedChunk(0, 0, 4)])
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        materialiser.prepare()
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        materialiser.finish()
    assert os.listdir(outside) == ["sub"]
    assert os.listdir(outside / "sub") == []


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    outside.write_bytes(b"untouched")
    (target / "file").symlink_to(outside)
    segment = tmp_path / "segment"
    segment.write_bytes(b"evil")
    materialiser = Materialiser(_layout(_file(b"file")), os.fsencode(target))
    materialiser.prepare()
    materialiser.fill(os.fsencode(segment), [StagedChunk(0, 0, 4)])
    materialiser.finish()
    assert outside.read_bytes() == b"untouched"
    assert (target / "file").read_bytes() == b"evil"


def test_layouts_are_kept_by_file_and_checked(tmp_path: Path) -> None:
    layouts = Layouts(kept=2)
    path = tmp_path / "tree"
    path.write_bytes(trees.serialise(_tree(_file(b"a"))))
    first = layouts.get(os.fsencode(path))
    assert layouts.get(os.fsencode(path)) is first
    other = tmp_path / "other"
    other.write_bytes(trees.serialise(_tree(_file(b"bb"))))
    other.rename(path)
    assert layouts.get(os.fsencode(path)).entries[1].path == b"bb"
    path.write_bytes(trees.serialise(_tree(_file(b"../escape"))))
    with pytest.raises(CorruptObject):
        layouts.get(os.fsencode(path))


@pytest.mark.parametrize(
    ("kept", "size", "same"), [(2, 1000, True), (1, 1000, False), (2, 1, False)]
)
def test_few_trees_are_kept(tmp_path: Path, kept: int, size: int, same: bool) -> None:  # noqa: FBT001
    layouts = Layouts(kept, size)
    for name in "ab":
        (tmp_path / name).write_bytes(trees.serialise(_tree(_file(name.encode()))))
    first, second = (layouts.get(os.fsencode(tmp_path / name)) for name in "ab")
    assert layouts.get(os.fsencode(tmp_path / "b")) is second
    assert (layouts.get(os.fsencode(tmp_path / "a")) is first) == same


_NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
_PATTERNS = st.binary(min_size=1, max_size=9)
_SIZES = st.one_of(
    st.integers(0, 200), st.sampled_from([4095, 4096, 65536, 262_144, 262_145, 3_000_000])
)
_NODES = st.lists(
    st.fixed_dictionaries(
        {
            "parent": st.integers(0, 30),
            "name": _NAMES,
            "kind": st.sampled_from(["dir", "file", "file", "sparse", "link", "hard", "fifo"]),
            "mode": st.integers(0, 0o7777),
            "mtime": st.integers(0, 2**33 * 10**9),
            "pattern": _PATTERNS,
            "size": _SIZES,
            "offset": st.integers(0, 600_000),
            "tail": st.integers(0, 600_000),
            "xattr": st.one_of(st.none(), st.binary(max_size=40)),
        }
    ),
    max_size=30,
)


def build(root: Path, nodes: list[dict[str, object]]) -> None:
    """The random tree on disk; nodes whose name is taken are left out."""
    directories = [root]
    files: list[Path] = []
    made: list[tuple[Path, dict[str, object]]] = []
    for node in nodes:
        parent = directories[int(str(node["parent"])) % len(directories)]
        name, pattern, size = node["name"], node["pattern"], node["size"]
        assert isinstance(name, bytes)
        assert isinstance(pattern, bytes)
        assert isinstance(size, int)
        data = (pattern * (size // len(pattern) + 1))[:size]
        path = parent / os.fsdecode(name)
        if os.path.lexists(path):
            continue
        kind = node["kind"]
        if kind == "dir":
            path.mkdir()
            directories.append(path)
        elif kind == "link":
            path.symlink_to(os.fsdecode(name))
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "hard" and files:
            os.link(files[0], path)
        else:
            offset, tail = (node["offset"], node["tail"]) if kind == "sparse" else (0, 0)
            assert isinstance(offset, int)
            assert isinstance(tail, int)
            write_sparse(path, offset + len(data) + tail, [(offset, data)] if data else [])
            files.append(path)
        made.append((path, node))
    for path, node in reversed(made):
        mode, mtime, xattr = node["mode"], node["mtime"], node["xattr"]
        assert isinstance(mode, int)
        assert isinstance(mtime, int)
        if not path.is_symlink():
            if isinstance(xattr, bytes) and node["kind"] != "fifo":
                os.setxattr(path, "user.test", xattr)
            # Without these bits an ordinary user could not set xattrs. Root does not care.
            path.chmod(mode | (0o700 if path.is_dir() else 0o600) * (os.geteuid() != 0))
        os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


@given(nodes=_NODES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_comes_back_exactly(nodes: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        root = Path(scratch)
        (root / "source").mkdir()
        build(root / "source", nodes)
        with Cache(root / "staging") as cache:
            first = cache.packer.capture_tree(root / "source", remember="tree")
            assert cache.packer.capture_tree(root / "source", remember="tree") == first
            cache.restore(first, root / "target")
        assert describe(root / "target") == describe(root / "source")
