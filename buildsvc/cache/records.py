"""The records of BuildKit's cache, which say what a snapshot is for: ``metadata_v2.db``.

The bucket ``_main`` has one for each record, by its id, with a value of JSON for each field
(BuildKit's cache/metadata.go).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildsvc.cache import bolt
from buildsvc.errors import CorruptObject

WORKER = "runc-overlayfs"
"""Directory of the daemon's worker, relative to buildkitd's root."""
METADATA = f"{WORKER}/metadata_v2.db"
"""The database's path, relative to buildkitd's root."""
CACHE_MOUNT = "exec.cachemount"
"""Kind of a cache mount."""
LOCAL_CONTEXT = "source.local"
"""Kind of a build context that was sent by a client."""

#: Where a record names those that it holds.
_PARENTS = (
    b"cache.parent",
    b"cache.mergeParents",
    b"cache.lowerDiffParent",
    b"cache.upperDiffParent",
)
_DESCRIPTION = re.compile(r"cached mount (.+?) from ", re.DOTALL)


@dataclass(frozen=True)
class Record:
    """One record; texts are empty where it has none.

    ``snapshot`` is what the name of its snapshot ends in: see ``own_name``. One that was committed
    and not finalized yet has that of its ``equalMutable``.
    """

    id: str
    snapshot: str
    kind: str
    description: str
    blob: str
    """Digest of the layer's blob."""
    parents: list[str]
    """Those that it holds, as layer, merge or diff."""
    mount: str = ""
    """What BuildKit knows a cache mount by."""
    deleted: bool = False
    """Marked as deleted, and not removed yet: a daemon that starts with it removes it."""


def own_name(snapshot: str) -> str:
    """Return BuildKit's own name of a snapshot, which containerd has put others before."""
    return snapshot.rpartition("/")[2]


def read_records(path: Path) -> Iterator[Record]:
    """The records of a database that is whole (``bolt.check``). Raises CorruptObject, OSError."""
    with bolt.Database(path) as database:
        found = database.root.bucket(b"_main")
        for key, fields in found.buckets() if found is not None else ():
            name = key.decode(errors="backslashreplace")
            values = fields.values()
            own = _text(values.get(b"cache.equalMutable")) or _text(values.get(b"cache.snapshot"))
            yield Record(
                id=name,
                snapshot=own or name,
                kind=_text(values.get(b"cache.recordType")),
                description=_text(values.get(b"cache.description")),
                blob=_text(values.get(b"cache.blob")),
                parents=[text for field in _PARENTS for text in _texts(values.get(field))],
                mount=_text(values.get(b"cache-dir")),
                deleted=_value(values.get(b"cache.deleted")) is True,
            )


def mount_names(record: Record) -> tuple[str, ...]:
    """Target and id of a cache mount, the target being that of its first use.

    BuildKit knows it by NAMESPACE/ID, with :RECORD behind it where it began as that record's
    content, and describes it as "cached mount TARGET from STEP" (solver/llbsolver/mounts).
    """
    described = _DESCRIPTION.match(record.description)
    known = record.mount.partition("/")[2]
    names = [os.path.normpath(described[1])] if described else []
    names += [known, known.rpartition(":")[0]]
    return tuple(name for name in dict.fromkeys(names) if name)


def _text(value: bytes | None) -> str:
    """The text in one of BuildKit's values; empty where there is none."""
    return next(iter(_texts(value)), "")


def _value(value: bytes | None) -> object:
    """What one of BuildKit's values has in it, which are JSON; None where there is none."""
    if not value:
        return None
    try:
        inside: object = json.loads(value)["value"]
    # RecursionError: brackets in brackets, which only a hostile store has.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptObject(f"{METADATA}: {value[:80]!r} is no value") from error
    return inside


def _texts(value: bytes | None) -> list[str]:
    """The texts in one of BuildKit's values."""
    inside = _value(value)
    texts = inside if isinstance(inside, list) else [inside]
    return [text for text in texts if isinstance(text, str) and text]
