"""Checks of the disk of the sidecar's root, memory, processors and file descriptors."""

from __future__ import annotations

import os
import resource

from buildsvc.doctor.finding import Finding
from buildsvc.doctor.place import Place
from buildsvc.doctor.trials import Trials, existing

#: Bytes without which not even an empty daemon starts, and those of a small build.
_NO_ROOM, _LITTLE_ROOM = 16 << 20, 10 << 30
#: Bytes of memory: sidecar, agent and daemon alone, and with a build.
_NO_MEMORY, _LITTLE_MEMORY = 512 << 20, 2 << 30
#: A limit of cgroup v1 that is none.
_NO_LIMIT = 1 << 60
#: Descriptors: one for each blob that is not there yet, and the daemon's.
_FEW_FILES = 65_536
#: Seconds; the agent gives up a lease so long before the kernel does.
_BREAK_TIME = 10


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def disk(place: Place, _trials: Trials) -> Finding:
    """Room below the sidecar's root, and what it is on."""
    directory = existing(place.data)
    kind = _file_system(place, str(directory))
    about = os.statvfs(directory)
    free, size = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
    seen = f"{_bytes(free)} of {_bytes(size)} free in {directory} ({kind})"
    advice = "chart: sidecar.rootSize; pod: an emptyDir with a larger sizeLimit, on a larger disk"
    if free < _NO_ROOM or not os.access(directory, os.W_OK):
        if free >= _NO_ROOM:
            seen, advice = f"{directory} cannot be written to", "an emptyDir, and fsGroup: 1000"
        return Finding("disk", "fail", seen, advice)
    if kind == "overlay":
        advice = "an emptyDir at BUILDSVC_ROOT: no overlay can lie on the container's own layers"
        return Finding("disk", "warn", seen, advice)
    if kind in ("tmpfs", "ramfs"):
        return Finding("disk", "warn", f"{seen}: it counts as memory", "an emptyDir on a disk")
    if free < _LITTLE_ROOM:
        return Finding("disk", "warn", seen, advice)
    return Finding("disk", "ok", seen)


def _file_system(place: Place, directory: str) -> str:
    """Return the type of what is mounted there: the longest mount point above it, the last one."""
    best, kind = "", "unknown"
    for line in (place.text("/proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4]
        inside = directory == point or directory.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def leases(place: Place, trials: Trials) -> Finding:
    """Blobs are there before their bytes are by file leases."""
    if trials.lease is None or trials.lease:
        advice = "a file system of the node's for the root; without leases blobs are restored first"
        return Finding("file leases", "warn", trials.lease or "not tried", advice)
    seconds = place.number("/proc/sys/fs/lease-break-time")
    if seconds is not None and seconds <= _BREAK_TIME:
        advice = "node: sysctl fs.lease-break-time=45, the kernel's default"
        return Finding("file leases", "warn", f"a broken one ends after {seconds} s", advice)
    return Finding("file leases", "ok", f"work; a broken one ends after {seconds} s")


def memory(place: Place, _trials: Trials) -> Finding:
    """The limit of the container: RUN steps count too."""
    limit = _memory_limit(place)
    if limit is None:
        return Finding("memory", "ok", "no limit")
    advice = "chart: sidecar.resources; pod: resources.limits.memory of what the RUN steps need"
    seen = f"a limit of {_bytes(limit)}"
    if limit < _NO_MEMORY:
        return Finding("memory", "fail", f"{seen}: the daemon alone needs more", advice)
    if limit < _LITTLE_MEMORY:
        return Finding("memory", "warn", f"{seen}: compilers will be killed", advice)
    return Finding("memory", "ok", seen)


def _memory_limit(place: Place) -> int | None:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = place.number(path)
        if limit is not None and limit < _NO_LIMIT:
            return limit
    return None


def processors(place: Place, _trials: Trials) -> Finding:
    """The limit of the container's processor time."""
    available = len(os.sched_getaffinity(0))
    quota = _quota(place)
    if quota is None:
        return Finding("processors", "ok", f"{available}, no limit")
    seen = f"a limit of {quota:g} of {available}"
    if quota < 1:
        advice = "chart: sidecar.resources; pod: requests.cpu instead of a limit below 1"
        return Finding("processors", "warn", seen, advice)
    return Finding("processors", "ok", seen)


def _quota(place: Place) -> float | None:
    words = (place.text("/sys/fs/cgroup/cpu.max") or "").split()
    if len(words) == 2 and words[0].isdecimal():
        return int(words[0]) / int(words[1])
    quota = place.number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = place.number("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return quota / period if quota and quota > 0 and period else None


def open_files(_place: Place, _trials: Trials) -> Finding:
    """The limit that the agent can raise its own to."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= _FEW_FILES:
        return Finding("open files", "ok", "no limit" if hard < 0 else f"up to {hard}")
    advice = "node: a higher LimitNOFILE of the container runtime; blobs beyond are restored first"
    return Finding("open files", "warn", f"up to {hard}", advice)
