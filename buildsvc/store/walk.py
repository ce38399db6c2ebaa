"""Listing a directory store in the order of names; blocking, for threads."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from buildsvc.store.contract import ObjectStat
from buildsvc.store.names import is_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def walk(root: Path, prefix: str) -> Iterator[ObjectStat]:
    """Yield the objects below ``root`` whose names begin with ``prefix``, ascending.

    Entries that are no objects by their names, and those that vanish meanwhile, are left out.
    Raises ``OSError``.
    """
    directory = prefix.rpartition("/")[0]
    yield from _walk(root, f"{directory}/" if directory else "", prefix)


def _walk(root: Path, directory: str, prefix: str) -> Iterator[ObjectStat]:
    try:
        with os.scandir(root / directory) as scan:
            entries = [(_sort_key(entry, directory), entry) for entry in scan]
    except (FileNotFoundError, NotADirectoryError):
        return
    for path, entry in sorted(entries, key=lambda item: item[0]):
        if not path.startswith(prefix) or not is_name(path.rstrip("/")):
            continue
        if path.endswith("/"):
            yield from _walk(root, path, prefix)
        elif entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                yield ObjectStat(path, stat.st_size, stat.st_mtime)


def _sort_key(entry: os.DirEntry[str], directory: str) -> str:
    # With the slash, directories fall among the files where their contents belong: "a-b" < "a/b".
    slash = "/" if entry.is_dir(follow_symlinks=False) else ""
    return f"{directory}{entry.name}{slash}"
