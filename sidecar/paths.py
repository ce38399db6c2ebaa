"""Where things lie on the local disk. docs/operations.md lists them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from buildsvc.errors import CannotCreate

_PREFIX = "epoch-"


@dataclass(frozen=True)
class EpochPaths:
    """The directories of one epoch: a root that lives until the cache under it is lost."""

    base: Path

    @property
    def buildkit(self) -> Path:
        """buildkitd's root."""
        return self.base / "buildkit"

    @property
    def snapshots(self) -> Path:
        """The agent's root."""
        return self.base / "snapshots"

    @property
    def staging(self) -> Path:
        """What travels between sidecar and agent."""
        return self.base / "staging"

    @property
    def down(self) -> Path:
        """Downloaded segments on their way to a worker."""
        return self.staging / "down"

    @property
    def up(self) -> Path:
        """Packs on their way to the store."""
        return self.staging / "up"

    @property
    def scratch(self) -> Path:
        """Copies of the databases while a checkpoint reads them."""
        return self.staging / "scratch"

    @property
    def run(self) -> Path:
        """Sockets and generated configuration."""
        return self.base / "run"

    @property
    def snapshots_socket(self) -> Path:
        """containerd's Snapshots API, for buildkitd."""
        return self.run / "snapshots.sock"

    @property
    def agent_socket(self) -> Path:
        """The agent's own API, for the sidecar."""
        return self.run / "agent.sock"

    @property
    def buildkit_socket(self) -> Path:
        """buildkitd's second listener, for the sidecar."""
        return self.run / "buildkitd.sock"

    @property
    def buildkit_config(self) -> Path:
        """The merged buildkitd.toml."""
        return self.run / "buildkitd.toml"

    @contextmanager
    def making(self) -> Iterator[None]:
        """Raise CannotCreate for an OSError of who makes something in here."""
        try:
            yield
        except OSError as problem:
            raise CannotCreate(
                f"{self.base} cannot be made",
                expected="a directory that this user can write, on a disk with room",
                found=problem.strerror or str(problem),
                advice="make room, or choose another directory with --root",
            ) from problem

    def make(self) -> None:
        """Create the directories, private to this user."""
        self.base.mkdir(mode=0o700, parents=True)
        for path in (self.buildkit, self.snapshots, self.down, self.up, self.scratch, self.run):
            path.mkdir(mode=0o700, parents=True)


def epoch_paths(root: Path, number: int) -> EpochPaths:
    """Return the paths of one epoch below the sidecar's root."""
    return EpochPaths(root / f"{_PREFIX}{number}")


def left_over(root: Path) -> list[Path]:
    """Epochs that an earlier sidecar left: never used again, whoever's death ended them."""
    return sorted(root.glob(f"{_PREFIX}*"))


def next_number(left: list[Path]) -> int:
    """Return an epoch number that no left-over directory has."""
    taken = [int(path.name.removeprefix(_PREFIX)) for path in left if path.name[-1:].isdigit()]
    return max(taken, default=0) + 1
