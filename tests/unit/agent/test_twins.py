"""Files linked from a sibling: both trees stay exact, and nothing is written through a link."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.agent.materialise import Materialiser
from sidecar.agent.staged import StagedChunk
from sidecar.agent.twins import Twins
from tests.unit.agent.ondisk import Cache, describe, make_everything, write_sparse
from tests.unit.agent.test_materialise import _NODES, build

MTIME = 1_600_000_000_123_456_789


class Pair:
    """A restored and a source of a second tree, which starts as an exact copy."""

    def __init__(self, cache: Cache, directory: Path, make: Callable[[Path], None]) -> None:
        self.cache = cache
        self.directory = directory
        self.a, self.source, self.b = (directory / name for name in ("a", "source", "b"))
        original = directory / "original"
        make(original)
        subprocess.run(["cp", "-a", original, self.source], check=True)
        self.captured_a = cache.packer.capture_tree(original)
        cache.restore(self.captured_a, self.a)
        self.before = describe(self.a)

    def restore(self) -> list[int]:
        """Restore the source with links from A; the chunks that it took."""
        self.captured = self.cache.packer.capture_tree(self.source)
        wanted = self.cache.restore(self.captured, self.b, (self.captured_a, self.a))
        self.check()
        return wanted

    def check(self) -> None:
        """B is what was captured, A what it was."""
        assert describe(self.b) == describe(self.source)
        assert describe(self.a) == self.before

    def linked(self) -> set[str]:
        """Paths of B's files that are A's too."""
        return _same(self.a, self.b)


def _same(a: Path, b: Path) -> set[str]:
    inodes = {path.lstat().st_ino for path in a.rglob("*") if stat.S_ISREG(path.lstat().st_mode)}
    return {str(path.relative_to(b)) for path in b.rglob("*") if path.lstat().st_ino in inodes}


def make_plain(root: Path) -> None:
    """Small files, a large one and a sparse one."""
    (root / "dir").mkdir(parents=True)
    for number in range(5):
        (root / f"dir/file{number}").write_bytes(b"%d" % number * 5000)
    (root / "large").write_bytes(os.urandom(9 << 20))
    write_sparse(root / "sparse", 1 << 20, [(8192, b"x" * 4096), (65536, b"y" * 100)])
    (root / "empty").touch()
    write_sparse(root / "hole", 4096, [])
    for path in root.rglob("*"):
        os.utime(path, ns=(MTIME, MTIME))


def test_an_equal_tree_takes_no_chunk(tmp_path: Path, cache: Cache) -> None:
    pair = Pair(cache, tmp_path, make_plain)
    assert pair.restore() == []
    assert pair.linked() == {*(f"dir/file{n}" for n in range(5)), "large", "sparse"}


def test_everything_comes_back_exactly_beside_a_sibling(tmp_path: Path, cache: Cache) -> None:
    pair = Pair(cache, tmp_path, make_everything)
    pair.restore()
    linked = pair.linked()
    assert "a/one piece" in linked
    assert "a/setuid" in linked
    # These have two names in their own tree.
    assert not linked & {"file", "a/b/another name", "a/large", "z large too"}


def _rewrite(path: Path) -> None:
    path.write_bytes(b"other content of the same size!"[:20].ljust(path.stat().st_size, b"."))
    os.utime(path, ns=(MTIME, MTIME))


def _cut_short(path: Path) -> None:
    os.truncate(path, 17)
    os.utime(path, ns=(MTIME, MTIME))


_CHANGES: dict[str, Callable[[Path], None]] = {
    "content": _rewrite,
    "size": _cut_short,
    "mode": lambda path: path.chmod(0o600),
    "mtime": lambda path: os.utime(path, ns=(MTIME, MTIME + 1)),
    "xattr": lambda path: os.setxattr(path, "user.comment", b"x"),
    "second name": lambda path: os.link(path, path.parent / "second name"),
}


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
@pytest.mark.parametrize("name", ["dir/file1", "large", "sparse"])
def test_a_file_that_differs_is_its_own(
    tmp_path: Path, cache: Cache, change: Callable[[Path], None], name: str
) -> None:
    pair = Pair(cache, tmp_path, make_plain)
    change(pair.source / name)
    pair.restore()
    linked = pair.linked()
    assert name not in linked
    # Small files share a chunk, and with it their fate.
    assert linked >= {"large", "sparse"} - {name}


def test_an_equal_file_elsewhere_is_its_own(tmp_path: Path, cache: Cache) -> None:
    """Else a view of both layers would show two names of one inode."""
    pair = Pair(cache, tmp_path, make_plain)
    (pair.source / "dir/file1").rename(pair.source / "dir/moved")
    pair.restore()
    assert "dir/moved" not in pair.linked()
    assert (pair.b / "dir/moved").stat().st_nlink == 1


def test_a_file_with_two_names_in_the_sibling_is_not_linked(tmp_path: Path, cache: Cache) -> None:
    def make(root: Path) -> None:
        make_plain(root)
        os.link(root / "dir/file1", root / "z")

    pair = Pair(cache, tmp_path, make)
    (pair.source / "z").unlink()
    pair.restore()
    assert "dir/file1" not in pair.linked()


@pytest.mark.parametrize("name", ["dir/file1", "large"])
def test_what_cannot_be_linked_is_written(
    tmp_path: Path, cache: Cache, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(cache, tmp_path, make_plain)
    link = os.link

    def refusing(source: bytes, *arguments: object, **options: object) -> None:
        if source == os.fsencode(Path(name).name):
            raise OSError(31, "Too many links")
        link(source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", refusing)
    pair.restore()
    assert pair.linked() == {*(f"dir/file{n}" for n in range(5)), "large", "sparse"} - {name}


def test_a_sibling_that_goes_away_meanwhile_is_no_harm(tmp_path: Path, cache: Cache) -> None:
    pair = Pair(cache, tmp_path, make_plain)
    (pair.a / "dir").rename(pair.directory / "elsewhere")
    (pair.a / "large").unlink()
    pair.captured = cache.packer.capture_tree(pair.source)
    cache.restore(pair.captured, pair.b, (pair.captured_a, pair.a))
    assert describe(pair.b) == describe(pair.source)
    assert _same(pair.a, pair.b) == {"sparse"}


@pytest.mark.parametrize("again", ["with links", "without"])
@pytest.mark.parametrize("until", ["prepare", "fill", "finish"])
def test_an_attempt_that_failed_leaves_nothing_to_write_through(
    tmp_path: Path, cache: Cache, again: str, until: str
) -> None:
    """Whatever an earlier attempt linked is replaced or linked again, never opened."""
    pair = Pair(cache, tmp_path, make_plain)
    _rewrite(pair.source / "dir/file2")
    captured = cache.packer.capture_tree(pair.source)
    sibling = (pair.captured_a, pair.a)
    if until == "finish":
        cache.restore(captured, pair.b, sibling)
    else:
        pair.b.mkdir()
        layout = cache.layout(captured)
        with Twins(layout, cache.layout(pair.captured_a), os.fsencode(pair.a)) as twins:
            linked = Materialiser(layout, os.fsencode(pair.b)).prepare(twins)
        if until == "fill":
            path, staged = next(iter(cache.segments(captured.data_digests).items()))
            Materialiser(layout, os.fsencode(pair.b), linked).fill(os.fsencode(path), staged)
    assert _same(pair.a, pair.b)
    cache.restore(captured, pair.b, sibling if again == "with links" else None)
    pair.check()
    assert bool(_same(pair.a, pair.b)) == (again == "with links")


def test_nothing_is_written_through_a_link_that_nobody_told_of(
    tmp_path: Path, cache: Cache
) -> None:
    """A large file is opened by its name: one with another name must refuse its bytes."""
    pair = Pair(cache, tmp_path, make_plain)
    data = os.urandom(9 << 20)
    (pair.source / "large").write_bytes(data)
    captured = cache.packer.capture_tree(pair.source)
    layout = cache.layout(captured)
    pair.b.mkdir()
    materialiser = Materialiser(layout, os.fsencode(pair.b))
    materialiser.prepare()
    (pair.b / "large").unlink()
    os.link(pair.a / "large", pair.b / "large")
    refused = 0
    for path, staged in cache.segments(captured.data_digests).items():
        for each in staged:
            try:
                materialiser.fill(
                    os.fsencode(path), [StagedChunk(each.chunk, each.offset, each.stored)]
                )
            except OSError:
                refused += 1
    assert refused
    assert describe(pair.a) == pair.before


def test_what_is_linked_is_not_touched_again(tmp_path: Path, cache: Cache) -> None:
    """Not even by setting what it has already: its sibling may be mounted."""
    pair = Pair(cache, tmp_path, make_plain)
    layout = cache.layout(pair.captured_a)
    pair.b.mkdir()
    with Twins(layout, layout, os.fsencode(pair.a)) as twins:
        linked = Materialiser(layout, os.fsencode(pair.b)).prepare(twins)
    after = {path: path.stat().st_ctime_ns for path in pair.a.rglob("*")}
    materialiser = Materialiser(layout, os.fsencode(pair.b), linked)
    for path, staged in cache.segments(pair.captured_a.data_digests).items():
        # Chunks that nobody wanted.
        assert materialiser.fill(os.fsencode(path), staged).bytes == 0
    materialiser.finish()
    assert {path: path.stat().st_ctime_ns for path in pair.a.rglob("*")} == after


def test_a_linked_snapshot_is_captured_as_if_it_were_not(tmp_path: Path, cache: Cache) -> None:
    """The other name of a linked file lies in another tree: it is a file like any other."""
    pair = Pair(cache, tmp_path, make_everything)
    pair.restore()
    assert (pair.b / "a/one piece").stat().st_nlink == 2
    again = cache.packer.capture_tree(pair.b)
    assert (again.tree_digests, again.data_digests) == (
        pair.captured.tree_digests,
        pair.captured.data_digests,
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nodes=_NODES, others=_NODES, kept=st.integers(0, 30))
def test_random_pairs(
    nodes: list[dict[str, object]], others: list[dict[str, object]], kept: int
) -> None:
    """Trees that have some nodes in common: both come out exactly, twice."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        first, second, a, b = (directory / each for each in ("first", "second", "a", "b"))
        for root, content in ((first, nodes), (second, nodes[:kept] + others)):
            root.mkdir()
            build(root, content)
        with Cache(directory / "staging") as cache:
            captured_a, captured_b = map(cache.packer.capture_tree, (first, second))
            cache.restore(captured_a, a)
            before = describe(a)
            assert before == describe(first)
            for _ in range(2):
                cache.restore(captured_b, b, (captured_a, a))
                assert describe(b) == describe(second)
                assert describe(a) == before
            # Within one tree, only what was one file is one file; between them, only one path is.
            inodes = {path.lstat().st_ino: path.relative_to(a) for path in _files(a)}
            for path in _files(b):
                assert inodes.get(path.lstat().st_ino, path.relative_to(b)) == path.relative_to(b)
        subprocess.run(["chmod", "-R", "u+rwx", directory], check=True)


def _files(root: Path) -> list[Path]:
    return [
        Path(directory, name)
        for directory, _, names in os.walk(os.fsencode(root).decode(errors="surrogateescape"))
        for name in names
        if stat.S_ISREG(Path(directory, name).lstat().st_mode)
    ]
