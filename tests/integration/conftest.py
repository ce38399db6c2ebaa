"""What integration tests have in common: the machine's prerequisites, directories, a registry."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.host import TOOLS, scratch
from tests.integration.memory import in_memory
from tests.integration.seed import Seed, seed

#: Bytes that a test needs in memory at most.
_ROOM = 2 << 30
PROGRAMS = (
    "buildctl",
    "buildkitd",
    "busybox",
    "docker-registry",
    "flock",
    "newuidmap",
    "rootlesskit",
    "runc",
    "slirp4netns",
    "zstd",
)


@pytest.fixture(scope="session")
def machine() -> None:
    """Fail where the machine lacks something: an integration test that is skipped tests nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert not missing, f"programs missing: {', '.join(missing)}; run `make setup`"
    assert os.getuid() != 0, "run as the rootless user: tools/as-builder tools/check.sh test"
    name = pwd.getpwuid(os.getuid()).pw_name
    assert f"{name}:" in Path("/etc/subuid").read_text(), f"{name} has no subuids"
    assert os.access("/dev/net/tun", os.R_OK | os.W_OK), "/dev/net/tun cannot be opened"


@pytest.fixture
def directory(machine: None) -> Iterator[Path]:  # noqa: ARG001
    """A directory with a short path that may hold roots of sidecars.

    In memory, where there is enough: the disk may be throttled. Short, since an address of a Unix
    socket has room for 107 bytes.
    """
    with in_memory(_ROOM) as directory:
        yield directory


@pytest.fixture(scope="module")
def shared(machine: None) -> Iterator[Path]:  # noqa: ARG001
    """The same for a module, and on a disk, where most pods have their roots."""
    with scratch(Path(os.environ.get("TMPDIR", "/tmp")), "bs") as directory:
        directory.chmod(0o755)
        yield directory


@pytest.fixture(scope="session")
def seeded(machine: None) -> Iterator[Seed]:  # noqa: ARG001
    """A store with one generation, of the steady project's revision 0; to be copied."""
    with in_memory(_ROOM) as directory:
        yield asyncio.run(seed(directory))


class Registries:
    """Image registries that RUN steps' network reaches."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._started: list[Path] = []

    def start(self, name: str) -> str:
        """Start an empty one and return its host and port."""
        place = self._base / f"registry-{name}"
        self._started.append(place)
        address = _registry("address")
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        return _registry("start", str(place), str(port))

    def stop(self) -> None:
        """Stop them all."""
        for place in self._started:
            _registry("stop", str(place))

    def daemon_config(self, *hosts: str) -> Path:
        """Write what buildkitd needs to speak plain HTTP to them."""
        path = self._base / "registries.toml"
        path.write_text("".join(f'[registry."{host}"]\n  http = true\n' for host in hosts))
        return path


def _registry(*arguments: str) -> str:
    done = subprocess.run(
        [TOOLS / "registry.sh", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture(scope="session")
def reachable_address(machine: None) -> str:  # noqa: ARG001
    """An address of this host that RUN steps in their own network reach."""
    return _registry("address")


@pytest.fixture(scope="module")
def registries(shared: Path) -> Iterator[Registries]:
    """Registries of one module."""
    made = Registries(shared)
    yield made
    made.stop()
