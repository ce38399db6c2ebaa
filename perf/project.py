"""A project to build: copied, so that changing it leaves the original alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from perf.ballast import EVERYTHING
from perf.build import Job
from perf.change import MARKER, Change, Line
from perf.host import PerfError
from perf.scenario import SCENARIOS


@dataclass(frozen=True)
class Project:
    """A working copy: what to build, and what changes from revision to revision.

    ``targets`` are the Dockerfile's where it makes several images, and empty where it makes one;
    ``everything`` is that of the first build, where it makes more than the later ones;
    ``large_layers`` as in `Scenario`.
    """

    name: str
    context: Path
    dockerfile: Path
    change: Change
    arguments: dict[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    everything: str = ""
    large_layers: bool = False

    def revise(self, revision: int) -> None:
        """Make the change number ``revision``."""
        self.change.apply(self.context, revision)

    def rebase(self, images: Mapping[str, str]) -> Self:
        """Return it on other base images, each by its build argument (`Scenario.bases`)."""
        return replace(self, arguments={**self.arguments, **images})

    def plain(self) -> Path:
        """Return the Dockerfile for builders without cache mounts, which may be the only one."""
        plain = self.dockerfile.with_name(self.dockerfile.name + ".plain")
        return plain if plain.exists() else self.dockerfile

    def job(self, image: str, *, target: str = "", options: tuple[str, ...] = ()) -> Job:
        """Return how to build it in its present state."""
        return Job(self.context, self.dockerfile, image, self.arguments, target, options)

    def jobs(self, repository: str, tag: str = "latest") -> tuple[Job, ...]:
        """Return the builds of all its images; of several, each below ``repository``."""
        if not self.targets:
            return (self.job(f"{repository}:{tag}"),)
        return tuple(self.job(f"{repository}/{name}:{tag}", target=name) for name in self.targets)


def scenario(
    name: str,
    scratch: Path,
    arguments: Mapping[str, str],
    *,
    change: str = "line",
    mounts: bool = True,
) -> Project:
    """Return a working copy of a scenario.

    ``arguments`` are build arguments: an image for each of `Scenario.bases`, and what else the
    Dockerfile takes. Without ``mounts`` it is built by the Dockerfile for builders that have none.
    Raises PerfError.
    """
    if name not in SCENARIOS:
        raise PerfError(f"there is no scenario {name}; there are {', '.join(SCENARIOS)}")
    wanted = SCENARIOS[name]
    if change not in wanted.changes:
        raise PerfError(f"{name} has no change {change}; it has {', '.join(wanted.changes)}")
    if missing := wanted.bases.keys() - arguments.keys():
        raise PerfError(f"{name} needs a base image for {', '.join(sorted(missing))}")
    context = copy(wanted.source, scratch / name)
    for file in wanted.shared:
        shutil.copy(file, context)
    dockerfile = context / ("Dockerfile" if mounts else "Dockerfile.plain")
    if not dockerfile.is_file():
        raise PerfError(f"{name} has no {dockerfile.name}")
    if wanted.ballast:
        wanted.ballast.add(dockerfile)
    everything = EVERYTHING if wanted.ballast else ""
    changes = wanted.changes[change]
    return Project(
        name,
        context,
        dockerfile,
        changes,
        dict(arguments),
        wanted.targets,
        everything,
        wanted.large_layers,
    )


def own(context: Path, dockerfile: Path | None, change: str, scratch: Path) -> Project:
    """Return a working copy of a user's project. Raises PerfError that says what is missing."""
    if not context.is_dir() or not os.access(context, os.R_OK | os.X_OK):
        raise PerfError(f"the context {context} is not a directory that this user can read")
    file = dockerfile or context / "Dockerfile"
    if not file.is_file() or not os.access(file, os.R_OK):
        raise PerfError(f"the Dockerfile {file} is not a file that this user can read")
    if change and not (context / change).is_file():
        raise PerfError(f"the file to change, {change}, is not in the context {context}")
    copied = copy(context, scratch / "project")
    # Beside the context, not in it: it may lie outside and must not become part of it.
    directory = scratch / "dockerfile"
    directory.mkdir()
    shutil.copy(file, directory / file.name)
    ignore = file.with_name(file.name + ".dockerignore")
    if ignore.is_file():
        shutil.copy(ignore, directory / ignore.name)
    return Project("own", copied, directory / file.name, Line(change or MARKER))


def copy(source: Path, target: Path) -> Path:
    """Copy a build context, symbolic links as they are."""
    try:
        shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    except (OSError, shutil.Error) as error:
        raise PerfError(f"cannot copy {source}: {error}") from error
    # A tree that is read-only for this user was copied with its modes.
    for base, _, names in os.walk(target):
        os.chmod(base, 0o755)
        for name in names:
            path = Path(base, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o600)
    return target
