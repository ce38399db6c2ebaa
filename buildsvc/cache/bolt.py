"""Reads and checks bbolt databases without bbolt: buildkitd's metadata files.

A database is an array of pages. Pages 0 and 1 are meta pages, written in turn by transactions; the
valid one with the higher transaction id counts. It names the root bucket's B+tree and the page that
lists the free pages. A bucket's leaf elements are keys with values, or nested buckets: the value is
then the number of their root page, or, where that is 0, a page of its own inside the value.

A file captured while the daemon was paused between two transactions is whole. `Database.check`
proves it before such a copy is published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from buildsvc.cache.boltpages import BRANCH, LEAF, Page, PageFile, check_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_DEPTH_LIMIT = 64


class Bucket:
    """One bucket of an open database. Iteration is in key order; it raises CorruptObject."""

    def __init__(self, pages: PageFile, root: Page | int, sequence: int = 0) -> None:
        self._pages = pages
        self._root = root
        self.sequence = sequence
        """The last number that was given out to an element."""

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Keys with values or nested buckets."""
        root = self._pages.page(self._root) if isinstance(self._root, int) else self._root
        for leaf in self._leaves(root, 0):
            for key, value, nested in leaf.entries():
                if nested:
                    yield key, Bucket(self._pages, *self._pages.bucket_root(value))
                else:
                    yield key, bytes(value)

    def buckets(self) -> Iterator[tuple[bytes, Bucket]]:
        """The nested buckets alone."""
        for key, value in self.items():
            if isinstance(value, Bucket):
                yield key, value

    def bucket(self, *path: bytes) -> Bucket | None:
        """The bucket at a path of names, None where there is none."""
        found = self
        for name in path:
            inner = next((bucket for key, bucket in found.buckets() if key == name), None)
            if inner is None:
                return None
            found = inner
        return found

    def values(self) -> dict[bytes, bytes]:
        """The keys that have plain values."""
        return {key: value for key, value in self.items() if isinstance(value, bytes)}

    def _leaves(self, page: Page, depth: int) -> Iterator[Page]:
        if page.kind == LEAF:
            yield page
        elif page.kind == BRANCH and depth < _DEPTH_LIMIT:
            for _, child in page.children():
                yield from self._leaves(self._pages.page(child), depth + 1)
        else:
            raise self._pages.corrupt(f"{page.name} is neither branch nor leaf, or too deep")


class Database:
    """A database file, open for reading. A context manager.

    Raises CorruptObject for what is not a bolt database, OSError for what cannot be read. Call
    `check` first on a file of doubtful origin: a tree may be made so that reading it never ends.
    """

    def __init__(self, path: Path) -> None:
        self._pages = PageFile(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Buckets cannot be read any more."""
        self._pages.close()

    @property
    def txid(self) -> int:
        """Number of the last committed write transaction."""
        return self._pages.meta.txid

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._pages.meta.page_size

    @property
    def root(self) -> Bucket:
        """The bucket that holds the top-level buckets."""
        return Bucket(self._pages, self._pages.meta.root)

    def check(self) -> int:
        """Walks all that can be reached; answers the number of pages in use.

        Raises CorruptObject for a page out of bounds, of a wrong kind, reached twice or listed as
        free, for keys out of order, and for elements that reach beyond their page.
        """
        self._pages.check_size()
        free, listing = self._pages.free_pages()
        used = {0, 1, *listing}
        self._check_tree(self._pages.meta.root, b"", None, used, 0)
        if both := free & used:
            raise self._pages.corrupt(f"page {min(both)} is in use and listed as free")
        return len(used)

    def _check_tree(
        self, number: int, low: bytes, high: bytes | None, used: set[int], depth: int
    ) -> None:
        """Checks the tree at a page, whose keys must be in [low, high)."""
        page = self._pages.page(number)
        numbers = range(number, number + page.length)
        if depth > _DEPTH_LIMIT or not used.isdisjoint(numbers):
            raise self._pages.corrupt(f"page {number} is reached twice, or too deep")
        used.update(numbers)
        if page.kind == LEAF:
            self._check_leaf(page, low, high, used, depth)
            return
        children = list(page.children())
        if page.kind != BRANCH or not children:
            raise self._pages.corrupt(f"page {number} is neither leaf nor branch with children")
        firsts = [key for key, _ in children]
        check_order(firsts, low, high, page)
        for (key, child), following in zip(children, [*firsts[1:], high], strict=True):
            self._check_tree(child, key, following, used, depth + 1)

    def _check_leaf(
        self, page: Page, low: bytes, high: bytes | None, used: set[int], depth: int
    ) -> None:
        keys = []
        for key, value, nested in page.entries():
            keys.append(key)
            if nested:
                root, _ = self._pages.bucket_root(value)
                if isinstance(root, int):
                    self._check_tree(root, b"", None, used, depth + 1)
                elif depth < _DEPTH_LIMIT:
                    self._check_leaf(root, b"", None, used, depth + 1)
                else:
                    raise self._pages.corrupt("buckets are nested too deep")
        check_order(keys, low, high, page)


@dataclass(frozen=True)
class SnapshotRow:
    """A snapshot as containerd's metadata store knows it; `name` is its key in the snapshotter."""

    key: str
    name: str
    parent: str


def txid(path: Path) -> int:
    """The last committed write transaction: it changes with every write. Cheap."""
    with Database(path) as database:
        return database.txid


def check(path: Path) -> None:
    """Raises CorruptObject for a database that is not whole."""
    with Database(path) as database:
        database.check()


def snapshots(
    path: Path, *, namespace: str = "buildkit", snapshotter: str = "overlayfs"
) -> list[SnapshotRow]:
    """What containerdmeta.db knows of a snapshotter's snapshots, by key.

    Layout: v1/<namespace>/snapshots/<snapshotter>/<key>/{name,parent,…}, see the package comment
    of containerd's core/metadata. Raises CorruptObject.
    """
    with Database(path) as database:
        bucket = database.root.bucket(b"v1", namespace.encode(), b"snapshots", snapshotter.encode())
        if bucket is None:
            return []
        rows = []
        for key, row in bucket.buckets():
            values = row.values()
            name = values.get(b"name", b"").decode()
            rows.append(SnapshotRow(key.decode(), name, values.get(b"parent", b"").decode()))
        return rows
