"""A project to build: copied, so that changing a line leaves the original alone."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from perf.build import Job
from perf.host import REPOSITORY, PerfError

SAMPLE = REPOSITORY / "perf" / "sample"
_OTHERS = REPOSITORY / "perf" / "scenarios"

#: The file that is added where a user's own project names none to change.
MARKER = "buildsvc-change.txt"

_COMMENTS = {
    **dict.fromkeys((".py", ".sh", ".rb", ".yaml", ".yml", ".toml", ".pl", ".r", ".tf"), "# {}"),
    **dict.fromkeys((".c", ".h", ".cc", ".cpp", ".go", ".java", ".js", ".ts", ".rs"), "// {}"),
    **dict.fromkeys((".kt", ".swift", ".scala", ".cs", ".php", ".dart"), "// {}"),
    **dict.fromkeys((".html", ".xml", ".md", ".vue"), "<!-- {} -->"),
    **dict.fromkeys((".css",), "/* {} */"),
    **dict.fromkeys((".sql", ".lua", ".hs"), "-- {}"),
}


@dataclass(frozen=True)
class Change:
    """The one line that changes: ``pattern`` in ``file`` becomes ``line`` with the revision.

    Without a pattern a comment is appended, or written anew.
    """

    file: str
    pattern: str = ""
    line: str = ""

    def apply(self, context: Path, revision: int) -> None:
        """Make the change number ``revision``. Raises PerfError when there is no such line."""
        path = context / self.file
        if not self.pattern:
            _comment(path, revision)
            return
        text = path.read_text()
        changed, count = re.subn(
            self.pattern, lambda _: self.line.format(revision), text, count=1, flags=re.MULTILINE
        )
        if count != 1:
            raise PerfError(f"{path}: no line matches {self.pattern!r}")
        path.write_text(changed)


def _comment(path: Path, revision: int) -> None:
    form = _COMMENTS.get(path.suffix.lower(), "{}" if path.name == MARKER else "")
    if not form:
        raise PerfError(f"{path.name}: no comment can be written into this kind of file")
    try:
        text = path.read_text() if path.exists() else ""
        kept = [line for line in text.splitlines() if "buildsvc revision" not in line]
        comment = form.format(f"buildsvc revision {revision}")
        path.write_text("\n".join([*kept, comment]) + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PerfError(f"cannot add a comment to {path}: {error}") from error


@dataclass(frozen=True)
class Project:
    """A working copy: what to build, and its one-line change."""

    name: str
    context: Path
    dockerfile: Path
    change: Change
    arguments: dict[str, str] = field(default_factory=dict)

    def revise(self, revision: int) -> None:
        """Make the one-line change number ``revision``."""
        self.change.apply(self.context, revision)

    def job(self, image: str, *, target: str = "", options: tuple[str, ...] = ()) -> Job:
        """Return how to build it in its present state."""
        return Job(self.context, self.dockerfile, image, self.arguments, target, options)


@dataclass(frozen=True)
class Scenario:
    """A project of this repository and its one-line change."""

    source: Path
    change: Change


SCENARIOS = {
    "sample": Scenario(
        SAMPLE,
        Change(
            "src/main.c",
            r"^static const int revision = .*$",
            "static const int revision = {};",
        ),
    ),
    "smallfiles": Scenario(
        _OTHERS / "smallfiles", Change("app/version", r"^revision .*$", "revision {}")
    ),
    "large": Scenario(
        _OTHERS / "large", Change("src/revision.h", r"^#define REVISION .*$", "#define REVISION {}")
    ),
}


def scenario(name: str, scratch: Path, base: str) -> Project:
    """Return a working copy of a scenario on a base image. Raises PerfError."""
    if name not in SCENARIOS:
        raise PerfError(f"there is no scenario {name}; there are {', '.join(SCENARIOS)}")
    wanted = SCENARIOS[name]
    context = copy(wanted.source, scratch / name)
    if name == "large":
        # The same Python environment, locked once.
        shutil.copy(SAMPLE / "requirements.txt", context)
    return Project(name, context, context / "Dockerfile", wanted.change, {"BASE": base})


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
    return Project("own", copied, directory / file.name, Change(change or MARKER))


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
