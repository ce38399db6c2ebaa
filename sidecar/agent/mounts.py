"""Mount system calls that Python does not have, for overlays in a user namespace.

Source of the numbers and flags: Linux uapi, `asm-generic/unistd.h` and `linux/mount.h`; x86_64 and
aarch64 agree on all of them. Every function blocks and raises OSError.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC = 1, 1
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
_AT_FDCWD = -100
_MS_RDONLY = 1
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_CLONE_FS = 0x200

_EINVAL, _ENOENT, _EBUSY, _ENOSYS = 22, 2, 16, 38

OVERLAY_OPTIONS = ("index=off", "userxattr")
"""Options of every overlay. `userxattr` is what a user namespace may use; no index, because lower
directories are shared and their file handles are worth nothing in a root that is thrown away."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Overlay:
    """Layers by path, the topmost lower one first. Without `upper` it is read-only."""

    lower: Sequence[str]
    upper: str = ""
    work: str = ""


def own_working_directory(path: str) -> None:
    """Gives the calling thread a working directory of its own and enters `path`.

    Names relative to it stay short: mount(2) takes one page of options, and each value given to
    fsconfig(2) at most 255 bytes.
    """
    _check(_libc.unshare(_CLONE_FS))
    os.chdir(path)


def mount_overlay(overlay: Overlay, target: str) -> None:
    """Mounts the overlay. A writable one is volatile: no unmount or fsync waits for the disk."""
    try:
        _mount_by_layer(overlay, target)
    except OSError as error:
        # Kernels before 6.8 do not know lowerdir+ (EINVAL), those before 5.2 not the call itself.
        if error.errno not in (_EINVAL, _ENOSYS):
            raise
        _mount_at_once(overlay, target)


def unmount(target: str) -> None:
    """Unmounts; no mount is fine. A busy one leaves the tree now and ends with its last user."""
    name = os.fsencode(target)
    if _libc.umount2(name, _UMOUNT_NOFOLLOW) == 0:
        return
    if ctypes.get_errno() == _EBUSY and _libc.umount2(name, _UMOUNT_NOFOLLOW | _MNT_DETACH) == 0:
        return
    if ctypes.get_errno() not in (_EINVAL, _ENOENT):
        raise _last_error(target)


def mount_points(below: str) -> set[str]:
    """Mount points of this mount namespace whose path begins with `below` and a slash."""
    prefix = below.rstrip("/") + "/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        points = (_unescape(line.split(" ", 5)[4]) for line in lines)
        return {point for point in points if point.startswith(prefix)}


def _mount_by_layer(overlay: Overlay, target: str) -> None:
    context = _syscall(_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    try:
        _configure(context, _SET_STRING, "source", "overlay")
        for layer in overlay.lower:
            _configure(context, _SET_STRING, "lowerdir+", layer)
        if overlay.upper:
            _configure(context, _SET_STRING, "upperdir", overlay.upper)
            _configure(context, _SET_STRING, "workdir", overlay.work)
            _configure(context, _SET_FLAG, "volatile", None)
        for option in OVERLAY_OPTIONS:
            key, separator, value = option.partition("=")
            if separator:
                _configure(context, _SET_STRING, key, value)
            else:
                _configure(context, _SET_FLAG, key, None)
        _configure(context, _CMD_CREATE, None, None)
        attributes = 0 if overlay.upper else _MOUNT_ATTR_RDONLY
        mounted = _syscall(_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)
    try:
        _syscall(
            _MOVE_MOUNT, mounted, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
        )
    finally:
        os.close(mounted)


def _mount_at_once(overlay: Overlay, target: str) -> None:
    options = [f"lowerdir={':'.join(overlay.lower)}", *OVERLAY_OPTIONS]
    if overlay.upper:
        options += [f"upperdir={overlay.upper}", f"workdir={overlay.work}", "volatile"]
    data = os.fsencode(",".join(options))
    flags = 0 if overlay.upper else _MS_RDONLY
    result = _libc.mount(b"overlay", os.fsencode(target), b"overlay", ctypes.c_ulong(flags), data)
    _check(result, target)


def _configure(context: int, command: int, key: str | None, value: str | None) -> None:
    _syscall(
        _FSCONFIG,
        context,
        command,
        None if key is None else key.encode(),
        None if value is None else os.fsencode(value),
        0,
    )


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    # syscall(2) is variadic: every argument must have the width of a register.
    words = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    return _check(result)


def _check(result: int, name: str | None = None) -> int:
    if result < 0:
        raise _last_error(name)
    return result


def _last_error(name: str | None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), name)


def _unescape(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as a backslash and three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)
