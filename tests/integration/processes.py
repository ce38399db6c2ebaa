"""The processes of one sidecar: which is which, killing one, and that nothing is left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.integration.commands import PATIENCE
from tests.integration.proctree import below, command_line
from tests.integration.sidecars import Pod

#: Who can be killed, and how its command line is known.
_WORDS = {
    "agent": "-m sidecar.agent --root=",
    "guard": "sidecar.agent.guard",
    "buildkitd": "buildkitd --config=",
    "unpacker": "sidecar.agent.worker unpack",
    "packer": "sidecar.agent.worker pack",
}
VICTIMS = ("sidecar", "rootlesskit", *_WORDS)


def find(pod: Pod, victim: str) -> list[int]:
    """Return the pids of that name; none before it is started."""
    assert pod.process is not None
    if victim == "sidecar":
        return [pod.process.pid] if pod.process.returncode is None else []
    return [pid for pid in below(pod.process.pid) if _is(victim, pid)]


def _is(victim: str, pid: int) -> bool:
    line = command_line(pid)
    program = line.split(" ")[0].rpartition("/")[2]
    if victim == "rootlesskit":
        # Both of them: the parent outside and the child in the namespace.
        return program in {"rootlesskit", "exe"} and " rm " not in line
    if victim == "guard" and program in {"rootlesskit", "exe"}:
        return False
    if victim == "buildkitd":
        return program == "buildkitd"
    return _WORDS[victim] in line


def kill_one(pod: Pod, victim: str, chance: random.Random) -> bool:
    """Kill -9 one process of that name; False when there is none."""
    pids = find(pod, victim)
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    return True


class Remains:
    """What belongs to a sidecar now, to be looked for after its death."""

    def __init__(self, pod: Pod) -> None:
        assert pod.process is not None
        self._root = str(pod.root)
        pids = list(below(pod.process.pid))
        ours = _user_namespace(os.getpid())
        #: Held open: otherwise a later namespace may get the number of one that has ended.
        self._namespaces: dict[str, int] = {}
        self._pidfds: dict[int, int] = {}
        for pid in pids:
            with suppress(OSError):
                held = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
                name = os.readlink(f"/proc/self/fd/{held}")
                if name == ours or name in self._namespaces:
                    os.close(held)
                else:
                    self._namespaces[name] = held
            with suppress(ProcessLookupError):
                self._pidfds[pid] = os.pidfd_open(pid)

    def forget(self) -> None:
        """Let go of what was noted."""
        for noted in (self._pidfds, self._namespaces):
            while noted:
                os.close(noted.popitem()[1])

    async def gone(self) -> None:
        """Wait until every process is gone; fail for what stays, and for mounts."""
        async with asyncio.timeout(PATIENCE):
            for pidfd in self._pidfds.values():
                await _ended(pidfd)
            # Those that were started after the list was made have no descriptor to wait on.
            while strays := list(self._strays()):
                await asyncio.wait([asyncio.create_task(_gone(pid)) for pid in strays])
        self.forget()
        assert not [line for line in _mounts() if self._root in line]

    def _strays(self) -> Iterable[int]:
        for entry in os.listdir("/proc"):
            if entry.isdigit() and _user_namespace(int(entry)) in self._namespaces:
                yield int(entry)


async def _gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    await _ended(pidfd)
    os.close(pidfd)


async def _ended(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)


def _user_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return ""


def _mounts() -> list[str]:
    """Mounts of this namespace, which is the one that sidecars are started in."""
    return Path("/proc/self/mountinfo").read_text().splitlines()
