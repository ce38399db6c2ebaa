"""What an ``OSError`` of a store's own files means in terms of the contract."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from buildsvc.errors import ObjectNotFound, StoreError, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from pathlib import Path

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

CALLERS_TARGET = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF})
"""Numbers that, in a copy out of the store, can only come from the file written to."""


def reading_error(error: OSError, name: str, root: Path) -> StoreError:
    """The contract's error for a failed read of ``name`` below ``root``."""
    if error.errno in _ABSENT:
        return ObjectNotFound(f"no object {name}")
    return _general(error, f"cannot read {name}", root)


def writing_error(error: OSError, name: str, root: Path) -> StoreError:
    """The contract's error for a failed write or deletion of ``name`` below ``root``."""
    if error.errno in _FULL:
        return StoreRefused(
            f"cannot write {name}: the store is full",
            expected="free space",
            found=f"{os.strerror(error.errno or 0)} at {root}",
            advice="free space or raise the quota, or collect old generations",
        )
    if error.errno in _ABSENT or error.errno == errno.ENOTEMPTY:
        return StoreRefused(
            f"cannot write {name}",
            expected="directories where names have a /, and a file or nothing at the name itself",
            found=f"{os.strerror(error.errno or 0)} at {error.filename2 or error.filename}",
            advice=f"see what else writes into {root}",
        )
    return _general(error, f"cannot write {name}", root)


def _general(error: OSError, doing: str, root: Path) -> StoreError:
    found = f"{error.strerror or error} at {error.filename2 or error.filename or root}"
    if error.errno in _FORBIDDEN:
        return StoreRefused(
            doing,
            expected=f"a directory that uid {os.geteuid()} may use",
            found=found,
            advice=f"change the owner or mode of {root}, or choose another store",
        )
    return StoreUnavailable(doing, found=found)
