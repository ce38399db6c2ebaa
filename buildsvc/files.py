"""Whole files: written under another name and renamed, so that no reader sees half of one."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from buildsvc.errors import CannotCreate


def private_directory(path: Path) -> None:
    """Make a directory that only its owner can enter, parents included (0700).

    Raises CannotCreate.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkdir obeys the umask, and the directory may have been there before.
        path.chmod(0o700)
    except OSError as error:
        raise _cannot("directory", path, error) from error


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that is there whole or as it was before. Raises CannotCreate.

    Not synced: after a crash of the machine it may be empty, as its writer is gone too.
    """
    try:
        # mkstemp creates it with 0600: a secret is never readable by others, not for a moment.
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise _cannot("file", path, error) from error


def _cannot(what: str, path: Path, error: OSError) -> CannotCreate:
    return CannotCreate(
        f"cannot create the {what} {path}",
        expected="a directory that may be written to",
        found=error.strerror or str(error),
        advice="check its owner and the free space, or choose another place",
    )
