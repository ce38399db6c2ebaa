"""The process that tries in a user namespace of its own what a build will do there.

A program of its own (``python -m buildsvc.doctor.inside DIRECTORY``), because a process cannot go
back. It says ``user`` when it is in the namespace, and waits for a line: ``mapped`` when others
have mapped its ids, ``alone`` when it must do with its own. Then it tries the rest and says for
each what the kernel answered, "" for success, as a line of JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable

_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x10000000, 0x20000000, 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def main(directory: str) -> int:
    """Try everything; ``directory`` is an empty one on the disk of the sidecar's root."""
    uid, gid = os.getuid(), os.getgid()
    answer = _answer(lambda: _unshare(_NEWUSER))
    _say({"user": answer})
    if answer:
        return 0
    if sys.stdin.readline().strip() == "alone":
        _map_self(uid, gid)
    tries: dict[str, Callable[[], None]] = {
        "mounts": lambda: _unshare(_NEWNS),
        "overlay": lambda: _overlay(directory),
        "network": lambda: _unshare(_NEWNET),
        "proc": lambda: _proc(directory),
    }
    for name, attempt in tries.items():
        _say({name: _answer(attempt)})
    return 0


def _say(answers: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(answers) + "\n")
    sys.stdout.flush()


def _answer(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def _mount(source: str, target: str, kind: str, options: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(0), options.encode()))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _map_self(uid: int, gid: int) -> None:
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        with open(f"/proc/self/{file}", "w", encoding="ascii") as opened:
            opened.write(text)


def _overlay(directory: str) -> None:
    """Mount as the sidecar's snapshotter does."""
    parts = {name: os.path.join(directory, name) for name in ("lower", "upper", "work", "merged")}
    for path in parts.values():
        os.mkdir(path)
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    _mount("overlay", parts["merged"], "overlay", f"{options},userxattr,index=off")


def _proc(directory: str) -> None:
    """Mount a /proc of an own process namespace, which its first process has to do."""
    target = os.path.join(directory, "proc")
    os.mkdir(target)
    _unshare(_NEWPID)
    child = os.fork()
    if child == 0:
        code = 0
        try:
            _mount("proc", target, "proc")
        except OSError as error:
            code = error.errno or 255
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
