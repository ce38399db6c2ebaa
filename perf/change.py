"""What is changed in a project between two builds of it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from perf.host import REPOSITORY, PerfError

#: Real releases of the packages that `Release` moves: a table of fields for each scenario.
RELEASES = REPOSITORY / "perf" / "scenarios" / "releases.toml"

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


class Change(Protocol):
    """One of a row of states that a project is put in, one revision after the other."""

    @property
    def file(self) -> str:
        """What a person would look at to see it; empty where no file changes."""
        ...

    def apply(self, context: Path, revision: int) -> None:
        """Put the context in a state. Raises PerfError when it is not what was expected."""
        ...


@dataclass(frozen=True)
class Line:
    """One line of a source: ``pattern`` in ``file`` becomes ``line`` with the revision.

    Without a pattern a comment is appended, or written anew.
    """

    file: str
    pattern: str = ""
    line: str = ""

    def apply(self, context: Path, revision: int) -> None:
        """Make the change number ``revision``. Raises PerfError when there is no such line."""
        if self.pattern:
            _replace(context / self.file, self.pattern, self.line.format(revision))
        else:
            _comment(context / self.file, revision)


@dataclass(frozen=True)
class Release:
    """One dependency's other release: in the manifest, and in the lock where there is one.

    ``edits`` are replaced with the fields of a row of ``table`` in `RELEASES`, the rows in turn.
    """

    table: str
    edits: tuple[Line, ...]

    @property
    def file(self) -> str:
        """The manifest."""
        return self.edits[0].file

    def apply(self, context: Path, revision: int) -> None:
        """Take the release number ``revision``; after the last comes the first."""
        rows = releases(self.table)
        row = rows[revision % len(rows)]
        for edit in self.edits:
            _replace(context / edit.file, edit.pattern, edit.line.format(**row))


def releases(table: str) -> list[dict[str, str]]:
    """Return the releases of a scenario's package; the first is the one it was written with."""
    rows: list[dict[str, str]] = tomllib.loads(RELEASES.read_text())[table]
    return rows


@dataclass(frozen=True)
class FirstInstruction:
    """The first instruction of each stage that runs something: all that follows runs again."""

    file: str = "Dockerfile"

    def apply(self, context: Path, revision: int) -> None:
        """Change it in every variant of the Dockerfile."""
        for path in sorted(context.glob(f"{self.file}*")):
            line = f"ENV IMAGE_REVISION={revision}"
            _replace(path, r"^ENV IMAGE_REVISION=.*$", line, everywhere=True)


@dataclass(frozen=True)
class Nothing:
    """No file: the same again, or a change of what is outside, such as the base image."""

    file: str = ""

    def apply(self, context: Path, revision: int) -> None:
        """Leave everything as it is."""


def _replace(path: Path, pattern: str, text: str, *, everywhere: bool = False) -> None:
    old = path.read_text()
    new, count = re.subn(
        pattern, lambda _: text, old, count=0 if everywhere else 1, flags=re.MULTILINE
    )
    if not count:
        raise PerfError(f"{path}: no line matches {pattern!r}")
    path.write_text(new)


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
