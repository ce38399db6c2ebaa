"""What a hostile writer changes in an honest tree."""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2

if TYPE_CHECKING:
    from tests.campaign.forging import Forger

Tree: TypeAlias = cache_pb2.Tree
Change: TypeAlias = Callable[["Forger", Tree], None]

_XATTRS = (
    b"user.a", b"user.overlay.opaque", b"user.overlay.redirect", b"security.capability",
    b"trusted.overlay.metacopy", b"system.posix_acl_default", b"system.posix_acl_access", b"a",
)  # fmt: skip


def _entry(forger: Forger, tree: Tree) -> cache_pb2.Entry:
    return forger.chance.choice(tree.entries)


def _path(forger: Forger, tree: Tree) -> None:
    entry, outside = _entry(forger, tree), forger.outside
    entry.path = forger.chance.choice((
        b"..", b".", b"", b"/", b"../outside/x", b"./x", b"a//b", b"a/../../outside/x", b"x\0y",
        outside + b"/x", b"/" + outside + b"/x", entry.path + b"/", b"/" + entry.path,
        b"x" * 256, b"d/" * 3000 + b"x", b"\xff\xfe", entry.path + b"/..", b"a1/../../outside/x",
    ))  # fmt: skip


def _climb(forger: Forger, tree: Tree) -> None:
    # Each step is a directory of the tree, as it must be; only the names are wrong.
    path = b""
    for name in forger.chance.choice((
        (b"..", b"outside"), (b"a9", b"..", b"..", b"outside"), (b".", b"..", b"outside"),
        (b"a9/../../outside",), (b"../outside",), tuple(forger.outside.split(b"/")),
        (forger.outside,),
    )):  # fmt: skip
        path = path + b"/" + name if path else name
        tree.entries.add(path=path, mode=stat.S_IFDIR | 0o755)
    tree.entries.add(path=path + b"/x", mode=stat.S_IFREG | 0o644)


def _through_link(forger: Forger, tree: Tree) -> None:
    target = forger.chance.choice((forger.outside, b"../outside", b"/", b".."))
    tree.entries.add(path=b"way", mode=stat.S_IFLNK | 0o777, symlink=target)
    if forger.chance.random() < 0.5:
        tree.entries.add(path=b"way", mode=stat.S_IFDIR | 0o755)
    tree.entries.add(path=b"way/x", mode=stat.S_IFREG | 0o644)
    if forger.chance.random() < 0.5:
        tree.entries.add(path=b"way/outside/y", mode=stat.S_IFREG | 0o644)


def _over_link(forger: Forger, tree: Tree) -> None:
    # A file where a link is: it must replace the link, not follow it.
    target = forger.outside + b"/canary"
    tree.entries.add(path=b"zz", mode=stat.S_IFLNK | 0o777, symlink=target)
    tree.entries.add(path=b"zz", mode=stat.S_IFREG | 0o644, size=1).pieces.add(length=1)


def _order(forger: Forger, tree: Tree) -> None:
    one = forger.chance.randrange(len(tree.entries))
    moved = cache_pb2.Entry()
    moved.CopyFrom(tree.entries[one])
    if forger.chance.random() < 0.5:
        del tree.entries[one]
    tree.entries.append(moved)


def _mode(forger: Forger, tree: Tree) -> None:
    entry = _entry(forger, tree)
    kinds = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, 0, 0o170000)
    entry.mode = forger.chance.choice((
        forger.number(1 << 32), forger.chance.choice(kinds) | forger.chance.randrange(1 << 12)
    ))  # fmt: skip


def _numbers(forger: Forger, tree: Tree) -> None:
    entry = _entry(forger, tree)
    match forger.chance.randrange(8):
        case 0:
            entry.size = forger.number(1 << 64)
        case 1:
            entry.hardlink = forger.number(1 << 32)
        case 2:
            entry.hardlink = forger.chance.randrange(len(tree.entries) + 2)
        case 3:
            entry.uid = forger.number(1 << 32)
        case 4:
            entry.gid = forger.number(1 << 32)
        case 5:
            entry.rdev = forger.number(1 << 64)
        case 6:
            entry.mtime_ns = forger.chance.choice((1, -1)) * forger.number(1 << 63)
        case _:
            entry.symlink = forger.chance.choice((b"", b"\0", b"x" * 5000, forger.outside))


def _pieces(forger: Forger, tree: Tree) -> None:
    entry = _entry(forger, tree)
    if not entry.pieces or forger.chance.random() < 0.3:
        entry.pieces.add()
    piece = forger.chance.choice(entry.pieces)
    match forger.chance.randrange(4):
        case 0:
            piece.chunk = forger.number(1 << 32)
        case 1:
            piece.chunk_offset = forger.number(1 << 32)
        case 2:
            piece.length = forger.number(1 << 32)
        case _:
            piece.file_offset = forger.number(1 << 64)


def _xattrs(forger: Forger, tree: Tree) -> None:
    entry = _entry(forger, tree)
    for _ in range(forger.chance.choice((1, 1, 2, 40))):
        name = forger.chance.choice((*_XATTRS, b"", b"user.\0", b"user." + b"x" * 260))
        entry.xattrs.add(name=name, value=bytes(forger.chance.choice((0, 1, 28, 5000, 65_537))))


def _chunks(forger: Forger, tree: Tree) -> None:
    match forger.chance.randrange(4):
        case 0:
            tree.chunk_lengths.append(forger.number(1 << 32))
        case 1:
            tree.chunk_lengths[0] = forger.number(1 << 32)
        case 2:
            tree.chunk_digests += forger.chance.randbytes(forger.chance.choice((1, 31, 32)))
        case _:
            # The contents are those of other chunks.
            tree.chunk_digests = tree.chunk_digests[::-1]


CHANGES: Sequence[Change] = (
    _path, _path, _climb, _climb, _through_link, _over_link, _order, _mode, _numbers, _pieces,
    _xattrs, _chunks,
)  # fmt: skip
