"""Trees, packs, roots and heads as a hostile writer makes them: honest ones, then changed.

What is honest is made so that most of a change is noticed by one check alone. A change is made in
the message, or in its bytes, or in both.
"""

from __future__ import annotations

import random
import stat
import struct
from collections.abc import Sequence

import zstandard

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks, packs
from buildsvc.cache.entries import MAX_ENTRY
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.roots import MAX_ROOT
from buildsvc.cache.trees import LIMITS, MAX_CHUNKS
from tests.campaign.treechanges import CHANGES

KEY = CacheKey("acme", "protected", "main", "linux-amd64", "buildkit-0.33")
CONTENTS: Sequence[bytes] = (b"x", b"a line\n" * 40, bytes(5000), random.Random(1).randbytes(3000))
"""What the chunks hold that an honest tree has."""
STORED: Sequence[bytes] = [chunks.encode(content) for content in CONTENTS]
_DIGESTS = [chunks.digest(content) for content in CONTENTS]
_NUMBERS = sorted({
    max(0, number)
    for bits in (0, 7, 8, 12, 14, 16, 20, 21, 22, 24, 28, 31, 32, 44, 52, 63, 64)
    for number in ((1 << bits) - 1, 1 << bits, (1 << bits) + 1)
    if number < 1 << 64
})  # fmt: skip
Tree = cache_pb2.Tree


class Forger:
    """Makes one case after another of what its chance says."""

    def __init__(self, chance: random.Random, outside: bytes) -> None:
        """``outside``: a directory that nothing may be written to."""
        self.chance = chance
        self.outside = outside

    def tree(self) -> bytes:
        """A tree, perhaps still a valid one."""
        chance = self.chance
        tree = self.honest_tree()
        for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
            chance.choice(CHANGES)(self, tree)
        return self.damaged(tree.SerializeToString(), 0.25)

    def honest_tree(self) -> Tree:
        """A valid tree of some entries, that an ordinary file system can hold."""
        chance = self.chance
        tree = Tree(chunk_digests=b"".join(_DIGESTS), chunk_lengths=map(len, CONTENTS))
        tree.entries.add(mode=stat.S_IFDIR | 0o755)
        directories, files = [b""], list[int]()
        for number in range(1, chance.randrange(1, 10)):
            # Depth first: into the directory made last, or one that it lies in.
            parent = directories[-1]
            while parent and chance.random() < 0.3:
                directories.pop()
                parent = directories[-1]
            path = b"/".join(filter(None, (parent, b"%c%d" % (97 + chance.randrange(3), number))))
            entry = tree.entries.add(path=path, mtime_ns=chance.randrange(1 << 60))
            kind = chance.choice("ddfffffllhpsb")
            if kind == "d":
                entry.mode = stat.S_IFDIR | chance.choice((0o755, 0o700, 0o1777, 0o2755))
                directories.append(path)
            elif kind == "l":
                entry.mode = stat.S_IFLNK | 0o777
                entry.symlink = chance.choice((self.outside, b"../outside", b"..", b"/", b"a1"))
            elif kind == "h" and files:
                entry.mode, entry.hardlink = stat.S_IFREG | 0o644, chance.choice(files) + 1
            elif kind in "psb":
                made = {"p": stat.S_IFIFO, "s": stat.S_IFSOCK, "b": stat.S_IFBLK}[kind]
                entry.mode = made | 0o644
            else:
                entry.mode = stat.S_IFREG | chance.choice((0o644, 0o755, 0o4755, 0))
                files.append(number)
                self._fill(entry)
        return tree

    def _fill(self, entry: cache_pb2.Entry) -> None:
        at = 0
        for _ in range(self.chance.randrange(4)):
            chunk = self.chance.randrange(len(CONTENTS))
            length = self.chance.randrange(1, len(CONTENTS[chunk]) + 1)
            entry.pieces.add(
                chunk=chunk,
                chunk_offset=len(CONTENTS[chunk]) - length,
                length=length,
                file_offset=at,
            )
            at += length + self.chance.choice((0, 0, 1, 4096))
        entry.size = at + self.chance.choice((0, 0, 0, 100, 1 << 30))

    def pack(self) -> bytes:
        """A pack, whose name is the digest of whatever it is."""
        chance = self.chance
        some = chance.sample(range(len(CONTENTS)), chance.randrange(1, len(CONTENTS)))
        stored = [len(STORED[each]) for each in some]
        lengths = [len(CONTENTS[each]) for each in some]
        digests = [_DIGESTS[each] for each in some]
        data = b"".join(STORED[each] for each in some)
        for column in (stored, lengths):
            if chance.random() < 0.15:
                column[chance.randrange(len(column))] = self.number(1 << 32)
        if chance.random() < 0.1:
            digests[chance.randrange(len(digests))] = chance.choice(_DIGESTS)
        data = self.damaged(data, 0.2)
        columns = struct.pack(f"<{2 * len(some)}I", *stored, *lengths)
        index = self.damaged(b"".join(digests) + columns, 0.15)
        sizes = [len(data), len(index), packs.FORMAT_VERSION]
        if chance.random() < 0.15:
            sizes[chance.randrange(2)] = self.number(1 << 32)
        trailer = struct.pack("<32s16sQII8s", chunks.digest(index), bytes(16), *sizes, b"bsvcpack")
        return self.damaged(data + index + trailer, 0.2)

    def chunk(self) -> tuple[bytes, int, bytes]:
        """What is stored, the length that it is said to have, and the digest."""
        chance = self.chance
        number = chance.randrange(len(CONTENTS))
        length = len(CONTENTS[number]) if chance.random() < 0.7 else self.number(1 << 33)
        frame = STORED[number]
        if chance.random() < 0.2:
            # The frame declares nothing, or is followed by another.
            compressor = zstandard.ZstdCompressor(write_content_size=chance.random() < 0.5)
            frame = compressor.compress(CONTENTS[number]) * chance.choice((1, 2))
        return self.damaged(frame, 0.6), length, _DIGESTS[number]

    def root(self) -> bytes:
        """A serialised root."""
        chance = self.chance
        root = cache_pb2.Root(format_version=1, platform="linux/amd64", buildkit_version="v0.33.1")
        root.packs.add(digest=chunks.digest(b"pack"), size=1 << 20)
        for number, content in enumerate(CONTENTS):
            root.chunk_digests += _DIGESTS[number]
            root.chunk_packs.append(0)
            root.chunk_offsets.append(10_000 * number)
            root.chunk_stored.append(len(STORED[number]))
            root.chunk_lengths.append(len(content))
        root.blobs.add(digest="sha256:" + "ab" * 32, size=len(CONTENTS[1]), data=[1])
        for number in range(chance.randrange(1, 5)):
            snapshot = root.snapshots.add()
            snapshot.info.name = f"buildkit/{number}/x"
            snapshot.info.parent = f"buildkit/{number - 1}/x" if number else ""
            snapshot.info.kind = cache_pb2.SNAPSHOT_KIND_COMMITTED
            snapshot.tree.tree.append(1)
            snapshot.tree.data.extend([2, 3])
        root.databases.tree.append(0)
        for _ in range(chance.choice((0, 1, 1, 2))):
            self._change_root(root)
        return self.damaged(root.SerializeToString(), 0.4)

    def _change_root(self, root: cache_pb2.Root) -> None:
        chance = self.chance
        snapshot = chance.choice(root.snapshots)
        column = chance.choice((
            root.chunk_packs, root.chunk_offsets, root.chunk_stored, root.chunk_lengths,
            snapshot.tree.tree, snapshot.tree.data, root.blobs[0].data, root.databases.tree,
        ))  # fmt: skip
        number = self.number(1 << (63 if column is root.chunk_offsets else 32))
        match chance.randrange(6):
            case 0 if column:
                column[chance.randrange(len(column))] = number
            case 1:
                column.append(number)
            case 2:
                snapshot.info.parent = chance.choice(root.snapshots).info.name
            case 3:
                snapshot.info.name = chance.choice((snapshot.info.name, "", "../x", "x" * 2000))
            case 4:
                root.packs[0].size = self.number(1 << 63)
            case _:
                snapshot.info.usage_bytes = self.number(1 << 63)

    def head(self) -> bytes:
        """A head of the key's log, number 7."""
        head = cache_pb2.Head(
            format_version=1, key=KEY.text, number=7, tenant=KEY.tenant,
            trust_domain=KEY.trust_domain, root=_DIGESTS[0], nonce=bytes(16), parent=_DIGESTS[1],
        )  # fmt: skip
        match self.chance.randrange(5):
            case 0:
                head.number = self.number(1 << 63)
            case 1:
                head.root = self.chance.randbytes(self.chance.choice((0, 31, 33)))
            case 2:
                head.key = self.chance.choice(("", "../x", "x" * 70_000))
            case 3:
                head.oldest_kept, head.repeats = self.number(1 << 63), self.number(1 << 63)
        return self.damaged(head.SerializeToString(), 0.5)

    def bomb(self) -> tuple[str, bytes]:
        """Kind and bytes of something that is little, and much to whoever reads it."""
        root = _entry_of(b"\x10\xed\x83\x01")
        name = self.chance.choice(
            ("entries", "one entry", "chunks", "too large", "deep", "pieces", "packs", "references")
        )
        if name == "packs":
            return "root", b"\x08\x01" + b"\x52\x00" * (MAX_ROOT // 2 - 1)
        if name == "references":
            data = cache_pb2.TreeRef(tree=[1], data=[0] * (MAX_ROOT - 1024)).SerializeToString()
            return "root", self.root() + b"\xb2\x01" + _length(len(data)) + data
        if name == "entries":
            count = self.chance.choice((LIMITS.entries - 1, LIMITS.entries))
            fifos = (b"\x1a\x0b\x0a\x06%06x\x10\xa4\x23" % number for number in range(count))
            return "tree", root + b"".join(fifos)
        if name == "one entry":
            pieces = b"\x5a\x00" * (MAX_ENTRY // 2 - 8)
            return "tree", root + _entry_of(b"\x0a\x01a\x10\xa4\x83\x02\x50\x01" + pieces)
        if name == "pieces":
            tree = self.honest_tree()
            entry = tree.entries.add(path=b"zz", mode=stat.S_IFREG | 0o644)
            entry.size = 60_000
            for at in range(60_000):
                entry.pieces.add(chunk=2, length=1, file_offset=at)
            return "tree", tree.SerializeToString()
        if name == "chunks":
            tree = Tree(
                chunk_digests=bytes(32 * MAX_CHUNKS), chunk_lengths=[chunks.MAX_LENGTH] * MAX_CHUNKS
            )
            return "tree", tree.SerializeToString() + root
        if name == "deep":
            tree = Tree(entries=[cache_pb2.Entry(mode=stat.S_IFDIR | 0o755)])
            path = b""
            for _ in range(self.chance.choice((300, 5000))):
                path = path + b"/d" if path else b"d"
                tree.entries.add(path=path, mode=stat.S_IFDIR | 0o755)
            return "tree", tree.SerializeToString()
        return self.chance.choice(("tree", "pack", "root")), bytes(LIMITS.size + 1)

    def number(self, below: int) -> int:
        """A number at an edge, or any."""
        chance = self.chance
        if chance.random() < 0.3:
            return chance.randrange(below)
        return chance.choice([number for number in _NUMBERS if number < below])

    def damaged(self, data: bytes, share: float) -> bytes:
        """The bytes, in that share of the cases changed in a place or a few."""
        chance = self.chance
        if not data or chance.random() >= share:
            return data
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 5))):
            if not changed:
                break
            at = chance.randrange(len(changed))
            end = at + chance.randrange(16)
            match chance.randrange(7):
                case 0 | 1:
                    changed[at] ^= 1 << chance.randrange(8)
                case 2:
                    changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 3:
                    del changed[at:end]
                case 4:
                    changed[at:at] = chance.randbytes(chance.randrange(1, 9))
                case 5:
                    changed[at:at] = changed[at:end]
                case _:
                    del changed[at:]
        return bytes(changed)


def _entry_of(serialised: bytes) -> bytes:
    """A tree's field with an entry that no message is ever made of here."""
    return b"\x1a" + _length(len(serialised)) + serialised


def _length(size: int) -> bytes:
    made = bytearray()
    while size > 127:
        made.append(size & 127 | 128)
        size >>= 7
    made.append(size)
    return bytes(made)
