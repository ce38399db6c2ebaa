"""The size of what a build added, by the plainest means: tar and zstd -3 of each new layer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import zstandard

from perf.host import PerfError, environment, program
from sidecar.agent.index import SnapshotIndex
from sidecar.paths import epoch_paths

LEVEL = 3
_STEP = 1 << 20


def zstd_size(root: Path, epoch: int, names: Iterable[str]) -> int:
    """Return the bytes of the named snapshots of a sidecar's root as ``tar | zstd -3``.

    Raises PerfError when one of them is not there.
    """
    snapshots = epoch_paths(root, epoch).snapshots
    index = SnapshotIndex.decode((snapshots / "index").read_bytes())
    return sum(_tarred(snapshots / str(index.get(name).id) / "fs") for name in names)


def _tarred(directory: Path) -> int:
    # Inside a user namespace: the files belong to subordinate users.
    command = [program("rootlesskit"), "tar", "-C", str(directory), "--xattrs", "-cf", "-", "."]
    compressor = zstandard.ZstdCompressor(level=LEVEL).compressobj()
    size = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while part := process.stdout.read(_STEP):
            size += len(compressor.compress(part))
        said = process.stderr.read().decode()
    if process.returncode:
        raise PerfError(f"tar of {directory} failed: {said}")
    return size + len(compressor.flush())
