"""What lies in a store that is a directory, and how a test spoils it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import packs
from buildsvc.cache.roots import ChunkTable, Location, decode_root, root_name


class Stored:
    """The objects of one cache key in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def heads(self) -> list[Path]:
        """The heads, the oldest first."""
        return sorted(self.directory.glob("keys/*/heads/*"))

    @property
    def size(self) -> int:
        """Sum of the sizes of all files."""
        return sum(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())

    def head(self, number: int) -> cache_pb2.Head:
        """Read one head."""
        return cache_pb2.Head.FromString(self.heads[number - 1].read_bytes())

    def root_file(self, number: int) -> Path:
        """Where the root of a generation lies."""
        return self.directory / root_name(self.head(number).root)

    def root(self, number: int) -> cache_pb2.Root:
        """Read the root of a generation."""
        return decode_root(self.root_file(number).read_bytes(), self.head(number).root)

    def pack(self, digest: bytes) -> Path:
        """Where a pack lies."""
        return self.directory / packs.pack_name(digest)

    def databases(self, number: int) -> list[Location]:
        """Where the chunks of a generation's databases lie."""
        root = self.root(number)
        return ChunkTable(root).locate([*root.databases.tree, *root.databases.data])

    def snapshots(self, number: int) -> list[Location]:
        """Where the content of a generation's layers lies."""
        root = self.root(number)
        table = ChunkTable(root)
        return [at for item in root.snapshots for at in table.locate(item.tree.data)]

    def contents(self) -> Iterator[bytes]:
        """Everything that can be read in the store: files as they are, and chunks uncompressed."""
        for path in self.directory.rglob("*"):
            if not path.is_file():
                continue
            content = path.read_bytes()
            yield content
            relative = path.relative_to(self.directory)
            if relative.parts[0] == "packs":
                yield from chunks(content)
            elif relative.parts[0] == "roots":
                yield decode_root(content, bytes.fromhex(path.name)).SerializeToString()

    def check(self) -> None:
        """Raise CorruptObject unless each generation and each pack is whole and present."""
        for path in self.directory.glob("packs/*/*"):
            packs.verify(path.read_bytes(), bytes.fromhex(path.name))
        for number in range(1, len(self.heads) + 1):
            for pack in self.root(number).packs:
                assert self.pack(pack.digest).stat().st_size == pack.size


def chunks(pack: bytes) -> Iterator[bytes]:
    """Yield a pack's chunks, uncompressed."""
    from buildsvc.cache.chunks import decode

    index = packs.read_index(pack, len(pack))
    columns = zip(index.digests, index.offsets, index.stored, index.lengths, strict=True)
    for digest, offset, stored, length in columns:
        yield decode(pack[offset : offset + stored], length, digest)


def flip(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def cut_short(path: Path, size: int) -> None:
    """Leave the first bytes of a file."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(size)
