"""Inside a user namespace: make a layer with everything in it, capture it, restore it, describe it.

`capture SCRATCH` makes SCRATCH/source (through a real overlay mount), captures it into
SCRATCH/staging and writes what it is to SCRATCH/source.txt. `restore SCRATCH NAME` makes
SCRATCH/NAME from the packs and writes what that is to SCRATCH/NAME.txt.
"""

from __future__ import annotations

import json
import os
import pprint
import struct
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from buildsvc.cache import chunks, packs
from sidecar.agent.capture import CapturedTree
from tests.unit.agent.ondisk import Cache, describe, make_everything

_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 1, 2, 4, 0x10, 0x20
_NOBODY_ID = 0xFFFFFFFF
_CAP_NET_BIND_SERVICE = 1 << 10
_VFS_CAP_REVISION_2 = 0x02000000
_EFFECTIVE = 1


def acl(user: int) -> bytes:
    """An access control list that lets `user` read and write, as setxattr(2) takes it."""
    entries = [
        (_USER_OBJ, 7, _NOBODY_ID),
        (_USER, 6, user),
        (_GROUP_OBJ, 5, _NOBODY_ID),
        (_MASK, 7, _NOBODY_ID),
        (_OTHER, 5, _NOBODY_ID),
    ]
    return struct.pack("<I", _ACL_VERSION) + b"".join(
        struct.pack("<HHI", *each) for each in entries
    )


def capability() -> bytes:
    """cap_net_bind_service=ep, as setxattr(2) takes it."""
    return struct.pack("<IIIII", _VFS_CAP_REVISION_2 | _EFFECTIVE, _CAP_NET_BIND_SERVICE, 0, 0, 0)


def make_privileged(root: Path) -> None:
    """What only root of a namespace can make."""
    root.mkdir()
    for number in range(3):
        path = root / f"owner{number}"
        path.write_bytes(b"%d" % number)
        os.chown(path, number * 30_000, 65_534 - number)
    setuid = root / "setuid of another"
    setuid.write_bytes(b"#!/bin/sh\n")
    os.chown(setuid, 33, 44)
    setuid.chmod(0o6755)
    empty = root / "empty setuid"
    empty.touch()
    os.chown(empty, 33, 44)
    empty.chmod(0o6755)
    large = root / "large setuid"
    large.write_bytes(os.urandom(9 << 20))
    os.chown(large, 33, 44)
    large.chmod(0o6711)
    capable = root / "capable"
    capable.write_bytes(b"\x7fELF")
    os.chown(capable, 1000, 1000)
    capable.chmod(0o750)
    os.setxattr(capable, "security.capability", capability())
    shared = root / "shared"
    shared.mkdir()
    os.chown(shared, 7, 1234)
    shared.chmod(0o3770)
    for default in ("access", "default"):
        os.setxattr(shared, f"system.posix_acl_{default}", acl(4711))
    (shared / "inherits").write_bytes(b"x")
    (shared / "inherits dir").mkdir()
    plain = shared / "does not inherit"
    plain.write_bytes(b"y")
    os.removexattr(plain, "system.posix_acl_access")
    plain.chmod(0o600)
    os.symlink("nowhere", root / "link of another")
    os.chown(root / "link of another", 5, 6, follow_symlinks=False)
    os.mkfifo(root / "fifo of another")
    os.chown(root / "fifo of another", 5, 6)
    (root / "fifo of another").chmod(0o4624)
    closed = root / "closed"
    closed.mkdir()
    (closed / "file").write_bytes(b"z")
    (closed / "file").chmod(0)
    os.chown(closed, 99, 99)
    closed.chmod(0)


def mount(lower: Path, upper: Path, scratch: Path) -> Path:
    """An overlay as buildkitd mounts it; unmount it with umount."""
    for name in ("work", "merged"):
        (scratch / name).mkdir(exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={scratch}/work,userxattr,index=off"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(scratch / "merged")]
    subprocess.run(command, check=True)
    return scratch / "merged"


def umount(merged: Path) -> None:
    subprocess.run(["umount", str(merged)], check=True)


def make_lower(lower: Path) -> None:
    for path in ("removed", "replaced/old", "removed dir/file", "kept/file", "changed"):
        (lower / path).parent.mkdir(parents=True, exist_ok=True)
        (lower / path).write_bytes(path.encode())


def capture(scratch: Path) -> None:
    make_lower(scratch / "lower")
    (scratch / "source").mkdir()
    # Not through the mount, which lets nobody make a whiteout.
    make_everything(scratch / "source/everything")
    merged = mount(scratch / "lower", scratch / "source", scratch)
    (merged / "removed").unlink()
    for name in ("replaced", "removed dir"):
        subprocess.run(["rm", "-r", str(merged / name)], check=True)
    (merged / "replaced").mkdir()
    (merged / "replaced/new").write_bytes(b"new")
    (merged / "changed").chmod(0o600)
    make_privileged(merged / "privileged")
    umount(merged)
    with Cache(scratch / "staging") as cache:
        captured = cache.packer.capture_tree(scratch / "source")
        cache.sink.flush()
    columns = asdict(captured)
    columns["tree_digests"] = captured.tree_digests.hex()
    columns["data_digests"] = captured.data_digests.hex()
    (scratch / "captured.json").write_text(json.dumps(columns))


def restore(scratch: Path, name: str) -> None:
    columns = json.loads((scratch / "captured.json").read_text())
    captured = CapturedTree(
        bytes.fromhex(columns["tree_digests"]),
        bytes.fromhex(columns["data_digests"]),
        columns["usage_bytes"],
        columns["usage_inodes"],
    )
    with Cache(scratch / "staging") as cache:
        for path in (scratch / "staging").iterdir():
            data = path.read_bytes()
            index = packs.verify(data, chunks.digest(data))
            cache.packs.append(
                packs.FinishedPack(
                    path,
                    chunks.digest(data),
                    len(data),
                    b"".join(index.digests),
                    list(index.offsets),
                    list(index.stored),
                    list(index.lengths),
                )
            )
        cache.restore(captured, scratch / name)


def write_description(scratch: Path, name: str) -> None:
    """The layer, and what it looks like on top of the lower one."""
    seen: dict[str, object] = {"layer": describe(scratch / name)}
    merged = mount(scratch / "lower", scratch / name, scratch)
    seen["merged"] = sorted(os.fsencode(path) for path in merged.rglob("*"))
    umount(merged)
    (scratch / f"{name}.txt").write_text(pprint.pformat(seen, width=150))


def main(command: str, scratch: Path, name: str = "source") -> None:
    if command == "capture":
        capture(scratch)
    else:
        restore(scratch, name)
    write_description(scratch, name)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
