"""Directories on disk: what they are exactly, read independently of the scanner; and a cache."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from buildsvc.cache import chunks, trees
from buildsvc.cache.packs import FinishedPack, PackWriter
from sidecar.agent.capture import CapturedTree
from sidecar.agent.layout import Layout
from sidecar.agent.materialise import Materialiser
from sidecar.agent.pack import Packer
from sidecar.agent.sink import ChunkSink
from sidecar.agent.staged import StagedChunk
from sidecar.agent.twins import Twins

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

Description = dict[bytes, dict[str, object]]


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def describe(root: Path) -> Description:
    """Everything that a round trip must keep, by path."""
    found: Description = {}
    groups: dict[int, bytes] = {}

    def visit(path: bytes, name: bytes, dir_fd: int) -> None:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        mode = status.st_mode
        entry: dict[str, object] = {
            "mode": oct(mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
        }
        found[path] = entry
        if stat.S_ISLNK(mode):
            entry["target"] = os.readlink(name, dir_fd=dir_fd)
            return
        entry["xattrs"] = xattrs(b"/proc/self/fd/%d/%s" % (dir_fd, name))
        if stat.S_ISDIR(mode):
            descriptor = os.open(name, DIRECTORY, dir_fd=dir_fd)
            try:
                for child in sorted(map(os.fsencode, os.listdir(descriptor))):
                    visit(path + b"/" + child if path else child, child, descriptor)
            finally:
                os.close(descriptor)
        elif stat.S_ISREG(mode):
            entry["same as"] = groups.setdefault(status.st_ino, path)
            entry["content"] = content(name, dir_fd)
        else:
            entry["device"] = status.st_rdev

    with opened(root) as descriptor:
        visit(b"", b".", descriptor)
    return found


def xattrs(path: bytes) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name != "security.selinux"
    }


def content(name: bytes, dir_fd: int) -> tuple[int, str, list[tuple[int, int]]]:
    """Size, hash and the ranges that are no holes."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
    with open(descriptor, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
        return size, digest, extents(file.fileno(), size)


def extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    ranges = []
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            break
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        ranges.append((start, at))
    return ranges


@dataclass
class Cache:
    """A packer and what came out of it."""

    staging: Path
    packs: list[FinishedPack] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.staging.mkdir(exist_ok=True)
        self.writer = PackWriter(self.staging)
        self.sink = ChunkSink(self.writer, self.known, self.packs.append)
        self.packer = Packer(self.sink)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.discard()

    def chunk(self, digest: bytes) -> tuple[Path, int, int, int]:
        """Pack file, offset, bytes stored and length."""
        self.sink.flush()
        for pack in self.packs:
            digests = chunks.split_digests(pack.chunk_digests)
            if digest in digests:
                at = digests.index(digest)
                return (
                    pack.path,
                    pack.chunk_offsets[at],
                    pack.chunk_stored[at],
                    pack.chunk_lengths[at],
                )
        raise KeyError(digest.hex())

    def read(self, digests: bytes) -> bytes:
        """The bytes that these chunks are."""
        data = b""
        for digest in chunks.split_digests(digests):
            path, offset, stored, length = self.chunk(digest)
            data += chunks.decode(path.read_bytes()[offset : offset + stored], length, digest)
        return data

    def segments(self, data_digests: bytes) -> dict[Path, list[StagedChunk]]:
        """Each pack as a segment."""
        found: dict[Path, list[StagedChunk]] = {}
        for index, digest in enumerate(chunks.split_digests(data_digests)):
            path, offset, stored, _ = self.chunk(digest)
            found.setdefault(path, []).append(StagedChunk(index, offset, stored))
        return found

    def layout(self, captured: CapturedTree) -> Layout:
        """The tree, parsed."""
        layout = Layout(trees.parse(self.read(captured.tree_digests)))
        assert b"".join(layout.digests) == captured.data_digests
        return layout

    def restore(
        self,
        captured: CapturedTree,
        target: Path,
        sibling: tuple[CapturedTree, Path] | None = None,
    ) -> list[int]:
        """Materialise, each chunk a segment of its own, maybe from a sibling; the chunks used."""
        target.mkdir(exist_ok=True)
        layout = self.layout(captured)
        linked = b""
        if sibling is None:
            Materialiser(layout, os.fsencode(target)).prepare()
        else:
            other, layer = sibling
            with Twins(layout, self.layout(other), os.fsencode(layer)) as twins:
                linked = Materialiser(layout, os.fsencode(target)).prepare(twins)
        wanted = layout.wanted(linked)
        materialiser = Materialiser(layout, os.fsencode(target), linked)
        for path, staged in self.segments(captured.data_digests).items():
            for each in staged:
                if each.chunk in wanted:
                    assert materialiser.fill(os.fsencode(path), [each]).corrupt == []
        materialiser.finish()
        return wanted


def write_sparse(path: Path, size: int, ranges: Sequence[tuple[int, bytes]]) -> None:
    with open(path, "wb") as file:
        for offset, data in ranges:
            file.seek(offset)
            file.write(data)
        file.truncate(size)


def make_everything(root: Path) -> None:
    """One of each kind of thing that a layer can hold and an ordinary user can make."""
    root.mkdir()
    (root / "empty dir").mkdir(mode=0o700)
    (root / "a").mkdir()
    (root / "a/b").mkdir()
    (root / "file").write_bytes(b"content")
    (root / "file").chmod(0o640)
    (root / "a/nothing").touch()
    (root / "a/one piece").write_bytes(os.urandom(300_000))
    (root / "a/large").write_bytes(os.urandom(9 << 20))
    (root / "a/setuid").write_bytes(b"#!")
    (root / "a/setuid").chmod(0o4755)
    (root / "a/b").chmod(0o3775)
    os.link(root / "file", root / "a/b/another name")
    os.link(root / "a/large", root / "z large too")
    os.symlink("../no/such", root / "a/link")
    os.symlink(b"/absolute/\xff", os.fsencode(root) + b"/link \xfe\n")
    (root / os.fsdecode(b"\xff\xfe name")).write_bytes(b"not utf-8")
    os.mkfifo(root / "fifo", 0o611)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o755)
    os.mknod(root / "a/whiteout", stat.S_IFCHR, 0)
    os.link(root / "a/whiteout", root / "a/whiteout too")
    write_sparse(root / "holes all", 1 << 20, [])
    write_sparse(root / "holes small", 100_000, [(8192, b"x" * 4096), (65536, b"y" * 100)])
    write_sparse(root / "holes tail", 200_000, [(0, b"head" * 1024)])
    write_sparse(
        root / "holes large",
        64 << 20,
        [(4096, b"a" * 4096), (1 << 20, os.urandom(3 << 20)), (32 << 20, b"b" * 8192)],
    )
    os.setxattr(root / "a/b", "user.overlay.opaque", b"y")
    os.setxattr(root / "file", "user.comment", b"\x00binary\xff")
    os.setxattr(root / "a/large", "user.big", b"v" * 300)
    for number, path in enumerate(sorted(root.rglob("*"), reverse=True)):
        moment = 1_000_000_000_123_456_789 + number * 1_000_000_007
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    os.utime(root, ns=(1, 999_999_999))
