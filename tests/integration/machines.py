"""Machines that lack something: a full disk, no subordinate users, no user namespaces.

Nobody but root can take these from a machine. But root of a user namespace can mount a small
file system, replace /etc and set that namespace's limits, and a sidecar runs there as it does
outside: its own namespace is one inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.integration.commands import Finished, command, environment
from tests.integration.sidecars import Pod

_MAKE = """\
set -e
rm /etc/subuid /etc/subgid
echo root:1:60000 | tee /etc/subuid > /etc/subgid
mount -t tmpfs -o size="$2",mode=700 tmpfs "$1"
echo $$
exec cat
"""


class Machine:
    """A namespace with a disk of its own, on which there is room for one root."""

    def __init__(self, pid: int, disk: Path) -> None:
        self._pid = pid
        #: The disk as it is seen there, and from outside.
        self.inside = disk
        self.disk = Path(f"/proc/{pid}/root{disk}")

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("nsenter", f"--target={self._pid}", "--user", "--mount", "--preserve-credentials")

    def pod(self, *flags: str | Path) -> Pod:
        """Return a sidecar whose root is the disk, to be entered."""
        return Pod(self.disk, f"--root={self.inside}", *flags, prefix=self.enter)

    async def shell(self, script: str) -> Finished:
        """Run a script there, as root of the namespace."""
        return await command(*self.enter, "sh", "-ec", script, "sh", self.inside)


@asynccontextmanager
async def machine(disk: Path, size: str) -> AsyncIterator[Machine]:
    """Make a machine with a disk of that size (as tmpfs(5) has it) for the time of a block."""
    disk.mkdir()
    child = await asyncio.create_subprocess_exec(
        "rootlesskit", "--net=host", "--copy-up=/etc", "--copy-up=/run",
        "sh", "-c", _MAKE, "sh", disk, size,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        said = await child.stdout.readline()
        assert said, "the namespace could not be made"
        yield Machine(int(said), disk)
    finally:
        # Its last process reads until then.
        child.stdin.close()
        await child.wait()
