"""The file that says that a directory is a store; blocking, for threads.

Without it, a mistyped path would mix objects into somebody's home directory, and a deletion of
unreferenced objects would later look at that person's files.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from buildsvc.errors import StoreRefused
from buildsvc.store.drafts import Draft, make_directories

if TYPE_CHECKING:
    from pathlib import Path

MARKER = ".buildsvc-store"
CONTENT = b"buildsvc object store, format 1\n"

# A freshly made file system on a volume of its own has this one.
_HARMLESS = frozenset({"lost+found"})


def is_store(root: Path) -> bool:
    """Whether ``root`` is a store; False if it is absent or empty, and can become one.

    Raises:
        StoreRefused: something else is there, or a store of another format.
        OSError: it cannot be read.
    """
    if _marked(root):
        return True
    try:
        found = [entry for entry in os.listdir(root) if not _ignored(entry)]
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise _foreign(root, "a file") from error
    if not found:
        return False
    # Another process may have made the store between the two looks.
    if _marked(root):
        return True
    raise _foreign(root, f"{len(found)} other entries, among them {min(found)!r}")


def make_store(root: Path) -> None:
    """Make the absent or empty directory ``root`` a store; fine if it is one.

    Raises:
        StoreRefused: see ``is_store``.
        OSError: it cannot be written.
    """
    if is_store(root):
        return
    make_directories(root)
    draft = Draft(root, prefix=f"{MARKER}.")
    try:
        draft.write(CONTENT)
        with contextlib.suppress(FileExistsError):
            draft.link(root / MARKER)
    finally:
        draft.discard()


def _marked(root: Path) -> bool:
    try:
        content = (root / MARKER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if content != CONTENT:
        raise StoreRefused(
            f"{root} is a store of another format",
            expected=CONTENT.decode().strip(),
            found=repr(content[:80]),
            advice="use the buildsvc that made it, or another directory",
        )
    return True


def _ignored(entry: str) -> bool:
    return entry.startswith(MARKER) or entry in _HARMLESS


def _foreign(root: Path, found: str) -> StoreRefused:
    return StoreRefused(
        f"{root} is not a store",
        expected=f"an empty or absent directory, or one with {MARKER}",
        found=found,
        advice="name another directory; nothing was changed in this one",
    )
