"""What is known of an image in the end, and the files in which the next steps read it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from buildsvc.errors import CannotCreate
from buildsvc.imagebuild.names import ImageNames
from buildsvc.imagebuild.placesettings import PlaceSettings

SCHEMA = 1


@dataclass(frozen=True)
class Result:
    """An image that was built. Empty texts, and None, are not known.

    ``image`` is the first reference with a tag, ``reference`` that with the digest. Steps are
    those of the Dockerfile, counted by BuildKit.
    """

    digest: str
    image: str
    reference: str
    references: tuple[str, ...]
    pushed: bool
    verified: bool
    seconds: float
    attempts: int
    steps_cached: int | None = None
    steps_total: int | None = None
    saved_seconds: float | None = None


def reference(names: ImageNames | None, digest: str) -> str:
    """Return the reference with tag and digest; empty for an image that has no name or digest."""
    return f"{names.references[0]}@{digest}" if names and names.tags and digest else ""


class ResultWriter(Protocol):
    """One way to tell the next steps."""

    def prepare(self) -> None:
        """Look, before the build, whether it can be written. Raises CannotCreate."""

    def write(self, result: Result) -> None:
        """Write it, whole or not at all. Raises CannotCreate."""


class FileWriter:
    """A file with one text, or with what ``text`` makes of the result."""

    def __init__(self, path: Path, text: TextOf) -> None:
        self._path = path
        self._text = text

    def prepare(self) -> None:
        """See :class:`ResultWriter`."""
        prepare(self._path)

    def write(self, result: Result) -> None:
        """See :class:`ResultWriter`."""
        replace_file(self._path, self._text(result))


class AppendingWriter(FileWriter):
    """A file that other steps have written to, or the CI system has made."""

    def write(self, result: Result) -> None:
        """See :class:`ResultWriter`."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._text(result))
        except OSError as error:
            raise _cannot(self._path, error) from error


class TektonWriter:
    """Tekton's results: a file for each, without a newline.

    The names are those that Tekton Chains looks for (https://tekton.dev/docs/chains/slsa-provenance
    under "type hinting"), and one of ours.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """See :class:`ResultWriter`."""
        prepare(self._directory / "IMAGE_URL")

    def write(self, result: Result) -> None:
        """See :class:`ResultWriter`."""
        for name, text in (
            ("IMAGE_URL", result.image),
            ("IMAGE_DIGEST", result.digest),
            ("IMAGE_REFERENCE", result.reference),
        ):
            replace_file(self._directory / name, text)


class TextOf(Protocol):
    """What makes a file's text of a result."""

    def __call__(self, result: Result, /) -> str:
        """Return it."""


def as_json(result: Result) -> str:
    """Return all of it."""
    return json.dumps({"schema": SCHEMA, **asdict(result)}, indent=2) + "\n"


def as_dotenv(result: Result) -> str:
    """Return variables: https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv."""
    return "".join(f"IMAGE_{name.upper()}={value}\n" for name, value in _texts(result).items())


def as_outputs(result: Result) -> str:
    """Return outputs of a step of GitHub Actions."""
    return "".join(f"{name}={value}\n" for name, value in _texts(result).items())


def _texts(result: Result) -> dict[str, str]:
    return {
        "digest": result.digest,
        "name": result.image,
        "reference": result.reference,
        "references": ",".join(result.references),
    }


def writers(settings: PlaceSettings, environ: Mapping[str, str]) -> list[ResultWriter]:
    """Return those that the options ask for, and GitHub's where it says where."""
    found: list[ResultWriter] = []
    texts: tuple[tuple[Path | None, TextOf], ...] = (
        (settings.result_file, as_json),
        (settings.digest_file, lambda result: result.digest),
        (settings.reference_file, lambda result: result.reference),
        (settings.dotenv, as_dotenv),
    )
    found += [FileWriter(path, text) for path, text in texts if path is not None]
    github = settings.github_output or Path(environ.get("GITHUB_OUTPUT", ""))
    if github != Path():
        found.append(AppendingWriter(github, as_outputs))
    if settings.tekton_results is not None:
        found.append(TektonWriter(settings.tekton_results))
    return found


def prepare(path: Path) -> None:
    """Make the directory of a file that is to be written. Raises CannotCreate."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot(path, error) from error
    target = path if path.exists() else path.parent
    if path.is_dir() or not os.access(target, os.W_OK):
        what = "it is a directory" if path.is_dir() else f"no right to write {target}"
        raise CannotCreate(f"the result cannot be written to {path}", found=what)


def replace_file(path: Path, text: str) -> None:
    """Write a file whole; what is no plain file (a pipe, /dev/stdout) is written to.

    Raises CannotCreate.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise _cannot(path, error) from error


def _cannot(path: Path, error: OSError) -> CannotCreate:
    return CannotCreate(f"the result cannot be written to {path}", found=error.strerror or "")
