"""Where one scenario is compared: services at the other end of a network, a project, scratch."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from perf.host import PerfError, remove_tree
from perf.peer import StockDaemon
from perf.project import Project, scenario
from perf.scenario import SCENARIOS
from perf.services import Registry, minio, object_server, push_base

_REGISTRY_PORT, _OBJECTS_PORT, _S3_PORT = 5000, 8000, 9000
#: The device that leads to the services (`perf.network`).
_LINK = "wan0"
_COUNTERS = Path("/proc/net/dev")


@dataclass(frozen=True)
class Traffic:
    """Bytes that went over the link, as builders see it."""

    received: int
    sent: int

    def since(self, before: Traffic) -> Traffic:
        """Return what has been added."""
        return Traffic(self.received - before.received, self.sent - before.sent)


def traffic() -> Traffic:
    """Return what went over the link so far."""
    for line in _COUNTERS.read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == _LINK:
            fields = counters.split()
            return Traffic(int(fields[0]), int(fields[8]))
    raise PerfError(f"there is no {_LINK} here; this is started by `python -m perf run`")


class Images:
    """The registry, with what one peer at a time has pushed: no peer finds another one's layers."""

    def __init__(self, directory: Path, prefix: Sequence[str]) -> None:
        self._directory = directory
        self._prefix = prefix
        self._running: Registry | None = None
        self._name = ""
        self.host = self._registry("base").host

    def _registry(self, name: str) -> Registry:
        return Registry(self._directory / name, self._prefix, _REGISTRY_PORT)

    def use(self, name: str, *, empty: bool = False) -> Registry:
        """Serve what ``name`` has pushed, or with ``empty`` and at first the base images alone."""
        if self._running is not None and self._name == name and not empty:
            return self._running
        self.stop()
        directory = self._directory / name
        if empty and directory.exists():
            shutil.rmtree(directory)
        if name != "base" and not directory.exists():
            shutil.copytree(self._directory / "base" / "data", directory / "data")
        directory.mkdir(parents=True, exist_ok=True)
        self._running, self._name = self._registry(name), name
        self._running.start()
        return self._running

    def forget(self, name: str) -> None:
        """Remove what ``name`` has pushed."""
        if self._name == name:
            self.stop()
        shutil.rmtree(self._directory / name, ignore_errors=True)

    def stop(self) -> None:
        """Serve nothing."""
        if self._running is not None:
            self._running.stop()
        self._running, self._name = None, ""


@dataclass(frozen=True)
class Store:
    """An object server: where its objects lie, and its address."""

    directory: Path
    url: str

    def empty(self) -> None:
        """Remove every object; what the server keeps beside them, it needs for the next ones."""
        for path in self.directory.iterdir():
            if not path.name.startswith("."):
                remove_tree(path)


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server: where it lies, its address, and credentials as variables."""

    directory: Path
    name: str
    endpoint: str
    credentials: Mapping[str, str] = field(repr=False)


@dataclass
class Place:
    """Services, the project's working copy, and room for pods' files."""

    scratch: Path
    #: What a command begins with that is to run at the services' end, and its address.
    services: tuple[str, ...]
    address: str
    images: Images
    #: The buildkitd.toml that says how to talk to the registry.
    config: Path
    project: Project
    #: Base images by build argument: the first ones, and revisions of them.
    bases: Sequence[Mapping[str, str]]
    stack: ExitStack
    #: Added to the names of images, where pods build side by side.
    pod: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _revisions: dict[str, int] = field(default_factory=dict)
    _stores: dict[str, Store] = field(default_factory=dict)
    _bucket: Bucket | None = None

    def fresh(self, name: str) -> Path:
        """Return a path that nothing has used, for a pod's files."""
        return self.scratch / f"{name}-{next(self._numbers)}"

    def store(self, family: str) -> Store:
        """Return the object server of a family of peers."""
        if family not in self._stores:
            directory = self.scratch / f"store-{family}"
            listen = f"{self.address}:{_OBJECTS_PORT + len(self._stores)}"
            log = self.scratch / f"store-{family}.log"
            server = object_server(directory, log, self.services, listen)
            self._stores[family] = Store(directory, self.stack.enter_context(server))
        return self._stores[family]

    def bucket(self) -> Bucket:
        """Return the S3 server's bucket, in which each family of peers has a prefix."""
        if self._bucket is None:
            data, log = self.scratch / "s3" / "data", self.scratch / "s3.log"
            directory = data / "cache"
            directory.mkdir(parents=True)
            listen = f"{self.address}:{_S3_PORT}"
            user = ("perf", secrets.token_hex(20))
            self.stack.enter_context(minio(data, log, listen, user, prefix=self.services))
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            credentials = dict(zip(names, user, strict=True))
            self._bucket = Bucket(directory, "cache", f"http://{listen}", credentials)
        return self._bucket

    def forget(self, family: str) -> None:
        """Remove what a family of peers has in registry and stores; none of it builds any more."""
        self.images.forget(family)
        if family in self._stores:
            self._stores[family].empty()
        if self._bucket is not None:
            remove_tree(self._bucket.directory / family)

    def restore(self) -> None:
        """Put the project in the state in which every family builds it first."""
        self.project.revise(0)
        self.project = self.project.rebase(self.bases[0])

    def revise(self, family: str) -> int:
        """Make the next change that no build of this family of peers has seen."""
        revision = self._revisions.get(family, 0) + 1
        self._revisions[family] = revision
        self.project.revise(revision)
        self.project = self.project.rebase(self.bases[revision % len(self.bases)])
        return revision


@dataclass(frozen=True)
class Wanted:
    """What is compared on: a scenario and its change, with cache mounts or without.

    ``revisions`` base images beside the first ones, where these are what changes.
    """

    scenario: str
    change: str = "line"
    mounts: bool = True
    revisions: int = 0


@contextmanager
def opened(
    wanted: Wanted, scratch: Path, services: tuple[str, ...], address: str
) -> Iterator[Place]:
    """A scenario's services and working copy; everything is stopped and removed afterwards."""
    with ExitStack() as stack:
        images = Images(scratch / "registry", services)
        stack.callback(images.stop)
        config = images.use("base").config(scratch / "buildkitd.toml")
        kinds = SCENARIOS[wanted.scenario].bases
        with StockDaemon(scratch / "base", config) as daemon:
            daemon.start(watched=False)
            daemon.wait_answer()
            bases = [
                {name: push_base(daemon.address, images.host, kinds[name], n) for name in kinds}
                for n in range(wanted.revisions + 1)
            ]
        project = scenario(
            wanted.scenario, scratch, bases[0], change=wanted.change, mounts=wanted.mounts
        )
        yield Place(scratch, services, address, images, config, project, bases, stack)
