"""What a rootless user namespace needs of the machine, and how to tell that it is missing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from buildsvc.errors import EnvironmentUnfit

if TYPE_CHECKING:
    from collections.abc import Mapping

TUN = Path("/dev/net/tun")
KILL_TIMEOUT = 10.0
"""Seconds for processes to go after SIGKILL."""
_NS_GET_PARENT = 0xB702
_MAPPERS = ("newuidmap", "newgidmap")
_MAX_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_CLONE = Path("/proc/sys/kernel/unprivileged_userns_clone")


@dataclass(frozen=True)
class NetworkMode:
    """`own` when the namespace can have its own network, else `host` and why."""

    mode: Literal["own", "host"]
    reason: str


def network_mode(environment: Mapping[str, str]) -> NetworkMode:
    """Whether this process may use the tun device, and the programs for it are there."""
    for program in ("slirp4netns", "ip"):
        if shutil.which(program, path=environment.get("PATH")) is None:
            return NetworkMode("host", f"{program} is not on PATH")
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return NetworkMode("host", f"{TUN} cannot be opened: {error.strerror}")
    return NetworkMode("own", "")


def check(
    rootlesskit: str, environment: Mapping[str, str], network: Literal["own", "host"]
) -> None:
    """Raises EnvironmentUnfit for what can be seen to be missing before anything is started."""
    path = environment.get("PATH")
    if shutil.which(rootlesskit, path=path) is None:
        raise EnvironmentUnfit(
            f"{rootlesskit} is not there", advice="install rootlesskit or name its path"
        )
    for program in _MAPPERS:
        if shutil.which(program, path=path) is None:
            raise EnvironmentUnfit(
                f"{program} is not on PATH",
                found=f"PATH={path}",
                advice="install the package uidmap (shadow-utils)",
            )
    _check_kernel()
    if shutil.which("getsubids", path=path) is None:
        # With it, ranges may come from elsewhere than the files; rootlesskit asks it first.
        for kind in ("subuid", "subgid"):
            _check_ranges(Path("/etc") / kind)
    if network == "own":
        found = network_mode(environment)
        if found.mode != "own":
            raise EnvironmentUnfit(
                "no network namespace of its own can be made",
                found=found.reason,
                advice=f"provide {TUN} and slirp4netns, or use the host's network with TLS",
            )


def _check_kernel() -> None:
    for sysctl in (_MAX_NAMESPACES, _CLONE):
        try:
            value = sysctl.read_text().strip()
        except OSError:
            continue
        if value == "0":
            raise EnvironmentUnfit(
                "user namespaces are switched off",
                expected=f"{sysctl} above 0",
                found="0",
                advice=f"raise the sysctl {'.'.join(sysctl.parts[3:])}",
            )


def _check_ranges(file: Path) -> None:
    user = _user()
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        lines, found = [], f"{file}: {error.strerror}"
    else:
        found = f"no line for it in {file}"
    if not any(line.split(":")[0] in user for line in lines):
        raise EnvironmentUnfit(
            f"user {user[0]} has no subordinate ids",
            expected=f"a line {user[0]}:100000:65536 in {file}",
            found=found,
            advice=f"usermod --add-{file.name}s 100000-165535 {user[0]}",
        )


def _user() -> tuple[str, str]:
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name, str(uid)
    except KeyError:
        raise EnvironmentUnfit(
            f"uid {uid} has no entry in /etc/passwd",
            advice="rootlesskit finds subordinate ids by the user's name; add one",
        ) from None


class EndedEarly(EnvironmentUnfit):
    """What was being started ended without saying of what: perhaps it was killed."""


class _Cause(NamedTuple):
    """How to know from rootlesskit's words what it failed of, and what to say then.

    `imitated`: rootlesskit says the same when its child was killed meanwhile.
    """

    pattern: str
    message: str
    expected: str
    advice: str
    imitated: bool = False


_OUTSIDE = _Cause(
    "",
    "the subordinate ids are not there in the user namespace that the sidecar runs in",
    "ranges in /etc/subuid and /etc/subgid within /proc/self/uid_map and /proc/self/gid_map",
    "name ids that exist: in a pod with hostUsers: false such as USER:1001:60000",
)
_KNOWN = (
    _Cause(
        r"(?i)no sub[ug]id|sub[ug]id ranges|open /etc/sub[ug]id",
        "the user has no subordinate ids",
        "a line USER:100000:65536 in /etc/subuid and in /etc/subgid",
        "add a line for the user to /etc/subuid and /etc/subgid",
    ),
    _Cause(
        r"new[ug]idmap.*(failed|exit status|not permitted)",
        "newuidmap or newgidmap may not write the id maps",
        "programs that may set the ids of others",
        (
            "make them setuid root or give them cap_setuid and cap_setgid, on a file system "
            "without nosuid; in Kubernetes, allowPrivilegeEscalation must not be false"
        ),
        imitated=True,
    ),
    _Cause(
        r"failed to start the child: .*(operation not permitted|permission denied)",
        "user namespaces may not be made here",
        "a container that may call clone(2) and unshare(2) with CLONE_NEWUSER",
        (
            "allow them: seccomp and AppArmor unconfined for the container, and "
            "kernel.apparmor_restrict_unprivileged_userns=0 on the host"
        ),
    ),
    _Cause(
        r"failed to start the child: .*no space left",
        "the limit of user namespaces is reached",
        "room for one more",
        "raise user.max_user_namespaces",
    ),
    _Cause(
        r"(?i)/dev/net/tun|failed to setup network|slirp4netns",
        "the network namespace could not be connected",
        "a network namespace with slirp4netns in it",
        "provide /dev/net/tun and slirp4netns, or use the host's network with TLS",
        imitated=True,
    ),
    _Cause(
        r"addresses to deny",
        "the addresses to deny could not be made unreachable",
        "networks that a route can be set for",
        "check --deny-cidr",
    ),
    _Cause(
        r"(?i)another RootlessKit is running",
        "the state directory is in use",
        "a root of its own for each sidecar",
        "wait until the other sidecar on this root has ended",
    ),
)


def explain(log: str) -> EnvironmentUnfit:
    """The error for a rootlesskit that ended before its guard spoke; `log` is what it said.

    EndedEarly when that explains nothing, or what it explains may have been another's doing.
    """
    found = "\n".join(line for line in log.splitlines() if "level=warning" not in line)
    for cause in _KNOWN:
        if re.search(cause.pattern, found):
            known = cause if _can_be_mapped(found) else _OUTSIDE
            kind = EndedEarly if known.imitated else EnvironmentUnfit
            return kind(
                f"the user namespace could not be made: {known.message}",
                expected=known.expected,
                found=found,
                advice=known.advice,
            )
    return EndedEarly(
        "the user namespace could not be made",
        expected="a rootlesskit that goes on running",
        found=found or "it ended without a message",
        advice="see whether something kills processes here, such as a limit of memory",
    )


def _can_be_mapped(log: str) -> bool:
    """Whether the ids that newuidmap or newgidmap was asked for exist in our own namespace."""
    asked = re.search(r"new([ug])idmap \d+ \[([\d ]+)\]", log)
    if asked is None:
        return True
    with open(f"/proc/self/{asked[1]}id_map", encoding="ascii") as file:
        ours = [[int(word) for word in line.split()] for line in file]
    numbers = [int(word) for word in asked[2].split()]
    return all(
        any(first <= start and start + count <= first + length for first, _, length in ours)
        for start, count in zip(numbers[1::3], numbers[2::3], strict=True)
    )


def dead_child(pid: int, name: str) -> int | None:
    """A child of that name that has ended and that its parent has not waited for, if any."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread may end meanwhile, and so may a child.
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text(encoding="ascii").split()):
                if f"({name}) Z " in Path(f"/proc/{child}/stat").read_text(encoding="utf-8"):
                    return child
    return None


def namespace_of(pid: int) -> int:
    """A descriptor of the user namespace that a process is in. Raises OSError when it is gone.

    A number would not do: when a namespace has ended, the next one that anybody makes gets its
    number, unless somebody holds it open.
    """
    return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def kill_all(descriptor: int, *, last: int | None = None) -> list[int]:
    """Kills every process in a user namespace and in those inside it, and waits for their end.

    For what outlived a guard that was killed itself. `last`, the agent, is killed when all others
    have gone: it holds the leases that they may be waiting for. Answers who did not end in time.
    Raises ValueError for the namespace that this process is in.
    """
    namespace = os.fstat(descriptor).st_ino
    if namespace == os.stat("/proc/self/ns/user").st_ino:
        raise ValueError("that is our own user namespace")
    limit = time.monotonic() + KILL_TIMEOUT
    while True:
        members = [pid for pid in map(int, _pids()) if _is_inside(pid, namespace)]
        if not members or time.monotonic() > limit:
            return members
        for pid in [pid for pid in members if pid != last] or members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _pids() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _is_inside(pid: int, namespace: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        if stat.rpartition(b")")[2].split()[0] == b"Z":
            # Dead; whoever inherited it may take its time.
            return False
        descriptor = namespace_of(pid)
    except OSError:
        # Gone, or not ours to look at, and so not of our namespace.
        return False
    try:
        while os.fstat(descriptor).st_ino != namespace:
            # Up to our own namespace, above which there is nothing that we may see.
            parent = fcntl.ioctl(descriptor, _NS_GET_PARENT)
            os.close(descriptor)
            descriptor = parent
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
