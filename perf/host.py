"""What the comparison needs of the machine: programs, room, ports, and its description."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sidecar.userns import network_mode

REPOSITORY = Path(__file__).resolve().parent.parent
TOOLS = REPOSITORY / "tools"

#: Bytes that a comparison of the sample project needs below its scratch directory.
ROOM = 12 << 30

_MEMORY = Path("/dev/shm")

REPORTING = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_LARGEST_BLOCK = 10
"""The order above which the kernel has no free block (MAX_PAGE_ORDER)."""

_NEW_SECONDS = 60

_WIDTH = 120
"""Letters in a line of a JSON file."""


class PerfError(Exception):
    """Something that was to be measured did not work; the text is for people."""


def environment() -> dict[str, str]:
    """Return the environment of what is measured, free of settings meant for another sidecar."""
    kept = {"BUILDSVC_TOOLS", "BUILDSVC_REGISTRY_ADDRESS"}
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("BUILDSVC_") or name in kept
    }


def sidecar_environment() -> dict[str, str]:
    """As `environment`, for the sidecar, which refuses variables that it does not know."""
    return {k: v for k, v in environment().items() if k != "BUILDSVC_REGISTRY_ADDRESS"}


def program(name: str) -> str:
    """Return the path of a program of ``tools/`` or of the distribution. Raises PerfError."""
    found = shutil.which(name)
    if found is None:
        raise PerfError(f"there is no program {name}; run `make setup`")
    return found


def output(argv: Sequence[str]) -> str:
    """Run a short command and return what it printed. Raises PerfError with its last words."""
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise PerfError(f"{' '.join(argv)} failed ({done.returncode}): {' '.join(words)}")
    return done.stdout.strip()


def scratch_base(prefix: str, chosen: Path | None = None, room: int = ROOM) -> Path:
    """Return where to work: memory where there is room for it, since disks differ and throttle.

    ``prefix`` is what `scratch` will be told: what killed programs left takes no room.
    """
    if chosen is not None:
        if not os.access(chosen, os.W_OK | os.X_OK):
            raise PerfError(f"the scratch directory {chosen} is not a directory one can write to")
        return chosen
    _remove_abandoned(_MEMORY, prefix)
    if os.access(_MEMORY, os.W_OK) and free_bytes(_MEMORY) >= room:
        return _MEMORY
    return disk()


def disk() -> Path:
    """Return the directory for temporary files."""
    return Path(tempfile.gettempdir())


def free_bytes(directory: Path) -> int:
    """Return the bytes that an ordinary user may still write below the directory."""
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if file_system(directory) == "tmpfs":
        # A tmpfs promises more than the memory has.
        free = min(free, available_memory())
    return free


def file_system(directory: Path) -> str:
    """Return the kind of file system that a directory is on, such as ``tmpfs``."""
    return output(["stat", "--file-system", "--format=%T", str(directory)])


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise PerfError("/proc/meminfo does not tell MemAvailable")


@contextmanager
def scratch(base: Path, prefix: str, *, alone: bool = False) -> Iterator[Path]:
    """A new directory that is removed afterwards, whatever it contains by then.

    Those of programs that were killed are removed before: in memory they would stay until the
    machine has none left. ``alone``: raise PerfError where another program works in one, for two
    that measure at one time take the processors from each other.
    """
    for old in _remove_abandoned(base, prefix):
        if alone and _held(old):
            raise PerfError(f"something else is being measured in {old}: wait for it, or end it")
    directory = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=base))
    with _locked(directory):
        try:
            yield directory
        finally:
            remove_tree(directory)


def _remove_abandoned(base: Path, prefix: str) -> list[Path]:
    """Remove the scratch directories of programs that were killed, and return the other ones."""
    found = list(base.glob(f"{prefix}-????????"))
    for old in found:
        if _abandoned(old):
            remove_tree(old)
    return [old for old in found if old.exists()]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a lock, which the kernel ends with the program; OSError if another one holds it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _held(directory: Path) -> bool:
    """Whether a living program works in it."""
    try:
        return not _free(directory)
    except OSError:
        return False


def _free(directory: Path) -> bool:
    """Whether no living program works in it; OSError if that cannot be told."""
    try:
        with _locked(directory):
            return True
    except BlockingIOError:
        return False


def _abandoned(directory: Path) -> bool:
    """Whether it is a scratch directory of this user's that no living program holds."""
    try:
        state = directory.lstat()
        ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
        # One that was made just now may not be locked yet.
        return ours and time.time() - state.st_ctime >= _NEW_SECONDS and _free(directory)
    except OSError:
        return False


def remove_tree(directory: Path) -> None:
    """Remove a directory that may hold files of subordinate users."""
    if directory.exists():
        # Inside a user namespace of ours those users are ours.
        argv = ["rootlesskit", "rm", "-rf", "--", str(directory)]
        subprocess.run(argv, env=environment(), check=False, stderr=subprocess.DEVNULL)
    with suppress(FileNotFoundError):
        shutil.rmtree(directory)


def own_network() -> bool:
    """Whether RUN steps can have a network of their own here, by the sidecar's own test."""
    return network_mode(os.environ).mode == "own"


_given: set[int] = set()


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on at this moment, and that nobody was given before."""
    while True:
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = int(probe.getsockname()[1])
        if port not in _given:
            _given.add(port)
            return port


def stored_bytes(directory: Path) -> int:
    """Return the sum of the sizes of the files below a directory."""
    total = 0
    for base, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(base, name)).st_size
    return total


def machine() -> dict[str, object]:
    """Describe the machine, for the record."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpus": os.cpu_count(),
        "cpu": model,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gives_memory_back": gives_memory_back(),
    }


def gives_memory_back(order: Path = REPORTING) -> bool:
    """Whether a virtual machine gives free memory back to its host (free page reporting).

    Who uses more memory than was used just before gets it from the host again, page by page: a
    fresh pod, but not a daemon that stayed up. ``order`` is the file of the kernel's parameter
    ``page_reporting_order``, the smallest block that is reported.
    """
    try:
        return 0 <= int(order.read_text()) <= _LARGEST_BLOCK
    except (OSError, ValueError):
        return False


def killed_for_memory(counters: Path = Path("/proc/vmstat")) -> int:
    """Return how many processes the kernel has killed for want of memory since it booted."""
    with suppress(OSError):
        for line in counters.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def revision() -> str:
    """Return the commit that is measured; where files differ from it, with what tells how."""
    commit = _git("describe", "--always").decode().strip()
    changes = _git("status", "--porcelain") + _git("diff", "HEAD")
    if changes:
        commit += f"-dirty-{hashlib.sha256(changes).hexdigest()[:8]}"
    return commit or "unknown"


def _git(*words: str) -> bytes:
    argv = ["git", "-c", "safe.directory=*", *words]
    return subprocess.run(argv, cwd=REPOSITORY, capture_output=True, check=False).stdout


def write_json(path: Path, content: object) -> None:
    """Replace a file, whole; what fits into a line has one of its own."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(_laid_out(content, "") + "\n")
    draft.replace(path)


def _laid_out(value: object, indent: str) -> str:
    line = json.dumps(value)
    if not isinstance(value, dict | list) or len(indent) + len(line) <= _WIDTH:
        return line
    deeper = indent + " "
    if isinstance(value, list):
        parts, ends = [_laid_out(each, deeper) for each in value], "[]"
    else:
        parts = [f"{json.dumps(k)}: {_laid_out(v, deeper)}" for k, v in value.items()]
        ends = "{}"
    inner = f",\n{deeper}".join(parts)
    return f"{ends[0]}\n{deeper}{inner}\n{indent}{ends[1]}"


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part."""
    return {
        "sidecar": output([sys.executable, "-m", "sidecar", "--version"]),
        "buildkitd": output(["buildkitd", "--version"]),
        "buildctl": output(["buildctl", "--version"]),
        "rootlesskit": output(["rootlesskit", "--version"]),
        "runc": output(["runc", "--version"]).splitlines()[0],
        "slirp4netns": output(["slirp4netns", "--version"]).splitlines()[0],
        "registry": output(["docker-registry", "--version"]),
    }
