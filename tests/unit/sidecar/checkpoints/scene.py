"""A checkpointer of a daemon that only seems to be one, and all that is around it."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.errors import CorruptObject
from buildsvc.store.faults import FaultyStore, Rule
from buildsvc.store.local import LocalStore
from sidecar.agentclient import AgentClient
from sidecar.buildkit import BuildKit
from sidecar.capture import Captures, Uploads
from sidecar.checkpoint import Checkpointer, Daemon
from sidecar.databases import Records
from sidecar.losses import Losses
from sidecar.status import Status
from tests.unit.sidecar.fakeagent import FakeAgent
from tests.unit.sidecar.test_capture import tree_event

ACTIVE = cache_pb2.SNAPSHOT_KIND_ACTIVE


COMMITTED = cache_pb2.SNAPSHOT_KIND_COMMITTED


VIEW = cache_pb2.SNAPSHOT_KIND_VIEW


DATABASES = agent_pb2.CaptureEvent(databases=agent_pb2.CapturedTree(tree_digests=b"x" * 32))


class FakeBuildKit(BuildKit):
    """A daemon's API without a daemon."""

    def __init__(self) -> None:
        self.active: list[str] = []
        self.pruned: list[tuple[tuple[str, ...], int]] = []

    async def active_builds(self) -> frozenset[str]:
        return frozenset(self.active)

    async def prune(self, filters: Sequence[str] = (), max_used_space: int = 0) -> frozenset[str]:
        assert filters or max_used_space, "it would remove the whole cache"
        self.pruned.append((tuple(filters), max_used_space))
        return frozenset()


class FakeDatabases:
    """In the place of the module: what a test says is in the files."""

    def __init__(self) -> None:
        #: Answers in turn; the last one stays.
        self.counts = [(1,)]
        self.blobs: list[dict[str, int]] = [{}]
        self.contexts = [0]
        self.bad = ""
        self.full = False
        self.found = Records({}, {})
        self.copied_records = 0
        self.verified: frozenset[str] = frozenset()
        self.forgotten: frozenset[str] = frozenset()

    def reserve(self, root: Path) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))

    def transactions(self, _: Path) -> tuple[int, ...]:
        return self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]

    def local_blobs(self, _: Path, lazy: frozenset[str]) -> list[str]:
        found = self.blobs.pop(0) if len(self.blobs) > 1 else self.blobs[0]
        return [digest for digest in found if digest not in lazy]

    def copy(self, _: Path, into: Path) -> int:
        into.mkdir()
        return 17

    def verify(self, _: Path, snapshots: frozenset[str]) -> None:
        self.verified = snapshots
        if self.bad:
            raise CorruptObject(self.bad)

    def forget_blobs(self, _: Path, digests: Collection[str]) -> None:
        self.forgotten = frozenset(digests)

    def records(self, _: Path) -> Records:
        return self.found

    def copy_records(self, _: Path, into: Path) -> None:
        self.copied_records += 1
        into.mkdir()

    def local_contexts(self, _: Path) -> int:
        return self.contexts.pop(0) if len(self.contexts) > 1 else self.contexts[0]


def row(
    name: str, kind: cache_pb2.SnapshotKind.ValueType = COMMITTED, touched: int = 0
) -> agent_pb2.SnapshotState:
    info = cache_pb2.SnapshotInfo(name=name, kind=kind)
    return agent_pb2.SnapshotState(info=info, residency=agent_pb2.RESIDENCY_LOCAL, touched=touched)


class Scene:
    """A checkpointer and all that is around it."""

    def __init__(self, directory: Path, client: AgentClient, agent: FakeAgent, pid: int) -> None:
        self.directory = directory
        self.agent = agent
        self.api = FakeBuildKit()
        self.databases = FakeDatabases()
        self.pid = pid
        self.script: list[Rule] = []
        self.restored: cache_pb2.Root | None = None
        #: How many processes RUN steps have left, at each look.
        self.strays = [0]
        self.losses = Losses()
        self.exclude: list[str] = []
        #: Whether a build begins before what the one before it has committed is captured.
        self.next_begins = False
        self.catalog = Catalog()
        self._client = client

    async def _end_strays(self) -> int:
        return self.strays.pop(0) if len(self.strays) > 1 else self.strays[0]

    def checkpointer(self) -> Checkpointer:
        store = FaultyStore(LocalStore(self.directory / "store"), self.script)
        uploads = Uploads(store, self._client, self.catalog, Status(), 2)
        (self.directory / "scratch").mkdir(exist_ok=True)
        captures = Captures(self._client, uploads)
        if self.next_begins:
            captures.committed("a")
            captures.builds_run(running=True)
        return Checkpointer(
            Daemon(self.pid, self.directory, self.api),
            self._client,
            captures,
            uploads,
            end_strays=self._end_strays,
            restored=self.restored,
            losses=self.losses,
            scratch=self.directory / "scratch",
            max_used_space=1000,
            exclude=self.exclude,
        )

    def goes_on(self) -> bool:
        """Whether the daemon is neither stopped nor held up by the agent."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "T" and not self.agent.frozen


def stand_in(name: str) -> agent_pb2.CaptureEvent:
    event = tree_event(name)
    event.snapshot.left_out = "too large"
    return event
