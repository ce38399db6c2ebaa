"""The snapshotter's table of snapshots, in memory, with containerd's rules.

The rules and their order are those of containerd's own metadata store (`core/snapshots/storage`),
so that a client sees the same errors.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from buildsvc.errors import BuildsvcError
from sidecar.agent.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FORMAT = 1
"""Version of the serialised index."""


class SnapshotError(BuildsvcError):
    """A call that the snapshot's state does not allow."""


class NotFound(SnapshotError):
    """No such snapshot, or no such parent."""


class AlreadyExists(SnapshotError):
    """The key or name is taken."""


class FailedPrecondition(SnapshotError):
    """The snapshot is of another kind than the call needs, or has children."""


class InvalidArgument(SnapshotError):
    """The request makes no sense whatever the state."""


class Unavailable(SnapshotError):
    """The snapshot's bytes cannot be had."""


class Kind(enum.IntEnum):
    """As numbered by containerd's API and by the cache format."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


class Row(msgspec.Struct):
    """One snapshot. Its directory is named after `id`, which is never used twice in a root."""

    id: int
    name: str
    parent: str
    kind: Kind
    labels: dict[str, str]
    created_ns: int
    updated_ns: int
    usage: Usage | None = None
    lazy: bool = False
    """The bytes are not on disk yet."""
    direct: bool = False
    """Active, and written to in its own directory instead of through an overlay."""

    def field(self, path: Sequence[str]) -> str | None:
        """Looks up a field for List's filters."""
        match path[0]:
            case "name":
                return self.name
            case "parent":
                return self.parent
            case "kind":
                return self.kind.name.lower()
            case "labels":
                return self.labels.get(".".join(path[1:]))
            case _:
                return None


class _Serialised(msgspec.Struct):
    format: int
    next_id: int
    rows: list[Row]


class SnapshotIndex:
    """All snapshots of a root. Every method is immediate; `version` grows with every change."""

    def __init__(self, rows: Sequence[Row] = (), next_id: int = 1) -> None:
        self._rows = {row.name: row for row in rows}
        self._children: dict[str, set[str]] = {}
        for row in rows:
            self._link(row)
        self._next_id = max([next_id, *(row.id + 1 for row in rows)])
        self.version = 0

    @classmethod
    def decode(cls, data: bytes) -> SnapshotIndex:
        """Raises ValueError for bytes that are no index of this format."""
        stored = msgspec.msgpack.decode(data, type=_Serialised)
        if stored.format != FORMAT:
            raise ValueError(f"snapshot index has format {stored.format}, expected {FORMAT}")
        return cls(stored.rows, stored.next_id)

    def encode(self) -> bytes:
        """The whole index, for `decode`."""
        return msgspec.msgpack.encode(_Serialised(FORMAT, self._next_id, list(self._rows.values())))

    def __len__(self) -> int:
        return len(self._rows)

    def mountable(self, key: str) -> Row:
        """An active snapshot or a view. Raises NotFound, FailedPrecondition."""
        row = self.get(key)
        if row.kind is Kind.COMMITTED:
            raise FailedPrecondition(f"snapshot {key} is neither active nor a view")
        return row

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def get(self, name: str) -> Row:
        """Raises NotFound."""
        row = self._rows.get(name)
        if row is None:
            raise NotFound(f"snapshot {name} does not exist")
        return row

    def walk(self) -> Iterator[Row]:
        """All rows in byte order of their names, the order in which containerd walks."""
        return iter(sorted(self._rows.values(), key=lambda row: row.name.encode()))

    def children(self, name: str) -> bool:
        """Whether any snapshot has this one as its parent."""
        return bool(self._children.get(name))

    def chain(self, parent: str) -> list[Row]:
        """The parent and its ancestors, topmost first; empty for an empty name. Raises NotFound."""
        found: list[Row] = []
        while parent:
            row = self.get(parent)
            found.append(row)
            parent = row.parent
        return found

    def check_create(self, key: str, parent: str) -> list[Row]:
        """The chain below a snapshot that may be created. Raises what `create` would."""
        if not key:
            raise InvalidArgument("snapshot key is empty")
        chain = self.chain(parent)
        if chain and chain[0].kind is not Kind.COMMITTED:
            raise InvalidArgument(f"parent {parent} is not a committed snapshot")
        if key in self._rows:
            raise AlreadyExists(f"snapshot {key} already exists")
        return chain

    def reserve_id(self) -> int:
        """A new id for a directory."""
        self._next_id += 1
        return self._next_id - 1

    def create(
        self,
        number: int,
        kind: Kind,
        key: str,
        parent: str,
        *,
        labels: Mapping[str, str],
        now_ns: int,
        direct: bool = False,
    ) -> Row:
        """Adds an active snapshot or a view. Raises NotFound, AlreadyExists, InvalidArgument."""
        self.check_create(key, parent)
        labels = _without_empty(labels)
        row = Row(number, key, parent, kind, labels, now_ns, now_ns, direct=direct)
        self._add(row)
        return row

    def restore(self, row: Row) -> None:
        """Adds a row as it is. Raises AlreadyExists."""
        if row.name in self._rows:
            raise AlreadyExists(f"snapshot {row.name} already exists")
        self._next_id = max(self._next_id, row.id + 1)
        self._add(row)

    def commit(
        self, name: str, key: str, parent: str, labels: Mapping[str, str], now_ns: int
    ) -> Row:
        """Makes the active snapshot `key` a committed one under `name`.

        A parent may be given to a snapshot that has none. Raises NotFound, AlreadyExists,
        FailedPrecondition, InvalidArgument.
        """
        row = self.get(key)
        if not name:
            raise InvalidArgument("snapshot name is empty")
        if name in self._rows:
            raise AlreadyExists(f"snapshot {name} already exists")
        if row.kind is not Kind.ACTIVE:
            raise FailedPrecondition(f"snapshot {key} is not active")
        if row.parent and parent and parent != row.parent:
            raise InvalidArgument(f"cannot change the parent of active snapshot {key} on commit")
        parent = row.parent or parent
        if parent and self.get(parent).kind is not Kind.COMMITTED:
            raise FailedPrecondition(f"parent {parent} is not committed")
        self._drop(row)
        committed = Row(
            row.id, name, parent, Kind.COMMITTED, _without_empty(labels), now_ns, now_ns
        )
        self._add(committed)
        return committed

    def revert(self, committed: Row, active: Row) -> None:
        """Makes a committed snapshot the active one again that it was."""
        self._drop(committed)
        self._add(active)

    def remove(self, name: str) -> Row:
        """Raises NotFound, and FailedPrecondition when it has children."""
        row = self.get(name)
        if self.children(name):
            raise FailedPrecondition(f"cannot remove snapshot {name}: it has children")
        self._drop(row)
        return row

    def update(
        self, name: str, labels: Mapping[str, str], paths: Sequence[str], now_ns: int
    ) -> Row:
        """Changes the labels that the paths name, all without a path.

        Raises NotFound, InvalidArgument.
        """
        row = self.get(name)
        changed = dict(row.labels)
        for path in paths or ("labels",):
            if path == "labels":
                changed = dict(labels)
            elif path.startswith("labels."):
                label = path.removeprefix("labels.")
                changed[label] = labels.get(label, "")
            else:
                raise InvalidArgument(f"cannot update field {path!r} of snapshot {name}")
        row.labels = _without_empty(changed)
        row.updated_ns = now_ns
        self.version += 1
        return row

    def set_usage(self, row: Row, usage: Usage | None) -> None:
        """Keeps what was measured, or forgets it because the tree may change."""
        row.usage = usage
        self.version += 1

    def set_local(self, row: Row) -> None:
        """The row's bytes are on disk now."""
        row.lazy = False
        self.version += 1

    def _add(self, row: Row) -> None:
        self._rows[row.name] = row
        self._link(row)
        self.version += 1

    def _link(self, row: Row) -> None:
        if row.parent:
            self._children.setdefault(row.parent, set()).add(row.name)

    def _drop(self, row: Row) -> None:
        del self._rows[row.name]
        if row.parent:
            siblings = self._children[row.parent]
            siblings.discard(row.name)
            if not siblings:
                del self._children[row.parent]
        self.version += 1


def _without_empty(labels: Mapping[str, str]) -> dict[str, str]:
    """No label has an empty value: in containerd's stores, setting one removes it."""
    return {key: value for key, value in labels.items() if value}
