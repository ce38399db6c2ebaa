"""Where results go, whole or not at all, and what the summary says of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from buildsvc.errors import CannotCreate
from buildsvc.imagebuild.names import ImageNames
from buildsvc.imagebuild.results import Result, ResultWriter, reference, writers
from buildsvc.imagebuild.settings import load_settings
from buildsvc.imagebuild.sidecarstatus import Seen
from buildsvc.imagebuild.summary import saved_seconds, summary

NAMES = ImageNames("r.example", "app", ("1", "latest"))
RESULT = Result(
    digest="sha256:d",
    image="r.example/app:1",
    reference="r.example/app:1@sha256:d",
    references=("r.example/app:1", "r.example/app:latest"),
    pushed=True,
    verified=True,
    seconds=6.42,
    attempts=1,
)
FILES = ("result_file", "digest_file", "reference_file", "dotenv", "github_output")


def asked(environ: dict[str, str] | None = None, /, **flags: object) -> list[ResultWriter]:
    return writers(load_settings({"push": "off", **flags}, {}), environ or {})


def write(*made: ResultWriter) -> None:
    for one in made:
        one.prepare()
    for one in made:
        one.write(RESULT)


def test_nothing_is_written_unasked() -> None:
    assert asked() == []
    assert asked({"GITHUB_OUTPUT": ""}) == []


def test_each_form(tmp_path: Path) -> None:
    paths = {name: tmp_path / "new" / name for name in FILES}
    given = {name: str(path) for name, path in paths.items()}
    write(*asked(**given, tekton_results=str(tmp_path / "tekton")))
    said = {name: path.read_text() for name, path in paths.items()}
    assert json.loads(said["result_file"]) == {
        "schema": 1, "digest": "sha256:d", "image": "r.example/app:1",
        "reference": "r.example/app:1@sha256:d",
        "references": ["r.example/app:1", "r.example/app:latest"], "pushed": True,
        "verified": True, "seconds": 6.42, "attempts": 1, "steps_cached": None,
        "steps_total": None, "saved_seconds": None,
    }  # fmt: skip
    assert (said["digest_file"], said["reference_file"]) == ("sha256:d", RESULT.reference)
    assert said["dotenv"] == (
        "IMAGE_DIGEST=sha256:d\nIMAGE_NAME=r.example/app:1\n"
        "IMAGE_REFERENCE=r.example/app:1@sha256:d\n"
        "IMAGE_REFERENCES=r.example/app:1,r.example/app:latest\n"
    )
    assert said["github_output"].startswith("digest=sha256:d\nname=r.example/app:1\n")
    tekton = {path.name: path.read_text() for path in (tmp_path / "tekton").iterdir()}
    assert tekton == {
        "IMAGE_URL": "r.example/app:1", "IMAGE_DIGEST": "sha256:d",
        "IMAGE_REFERENCE": RESULT.reference,
    }  # fmt: skip


def test_githubs_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "outputs"
    path.write_text("other=1\n")
    write(*asked({"GITHUB_OUTPUT": str(path)}))
    assert path.read_text().startswith("other=1\ndigest=sha256:d\n")


def test_other_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "digest"
    path.write_text("something that is longer than a digest")
    before = path.stat().st_ino
    write(*asked(digest_file=str(path)))
    assert path.read_text() == "sha256:d"
    assert path.stat().st_ino != before
    assert os.listdir(tmp_path) == ["digest"]


def test_a_device_is_written_to() -> None:
    write(*asked(digest_file="/dev/null"))
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", [*FILES, "tekton_results"])
def test_what_cannot_be_written_is_told_before_the_build(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (made,) = asked(**{name: str(tmp_path / "file" / "below" / "x")})
    with pytest.raises(CannotCreate, match="the result cannot be written to") as error:
        made.prepare()
    assert error.value.exit_code == 73
    with pytest.raises(CannotCreate):
        made.write(RESULT)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (made,) = asked(digest_file=str(tmp_path))
    with pytest.raises(CannotCreate, match="it is a directory"):
        made.prepare()


def test_references() -> None:
    assert reference(NAMES, "sha256:d") == "r.example/app:1@sha256:d"
    assert reference(NAMES, "") == ""
    assert reference(None, "sha256:d") == ""
    assert reference(ImageNames("r.example", "app", ()), "sha256:d") == ""


def test_a_summary_without_a_status() -> None:
    assert summary(RESULT, None) == [
        "r.example/app:1@sha256:d is in the registry",
        "r.example/app:latest@sha256:d is in the registry",
        "6.4 s",
    ]


def test_a_summary_of_everything() -> None:
    objects = {"total": 40, "fetched": 12, "demand": 2, "prefetch": 10, "never_needed": 0}
    seen = Seen(
        "ready", ready=True, cold_build_seconds=81.4, objects=objects, fetched_bytes=33_100_000
    )
    known = replace(RESULT, steps_cached=11, steps_total=13, saved_seconds=75.0, attempts=2)
    assert summary(known, seen)[2:] == [
        (
            "6.4 s, 11 of 13 steps cached; the last cold build of this cache took 81 s: 75 s "
            "saved; the build ran 2 times, because the cache was lost"
        ),
        "fetched 12 of 40 objects of the cache, 33 MB: 2 on demand, 10 in time",
    ]


def test_a_summary_of_what_was_not_pushed_or_not_checked() -> None:
    kept = replace(RESULT, pushed=False, verified=False)
    assert summary(kept, None)[0] == "the image is sha256:d; it was not pushed"
    assert summary(replace(kept, digest=""), None) == ["6.4 s"]
    assert summary(replace(RESULT, verified=False), None)[0].endswith("pushed, and not checked")


@pytest.mark.parametrize(("cold", "saved"), [(0.0, None), (5.0, None), (16.0, 10.0)])
def test_what_is_saved_is_never_guessed(cold: float, saved: float | None) -> None:
    assert saved_seconds(6.0, Seen("ready", ready=True, cold_build_seconds=cold)) == saved
    assert saved_seconds(6.0, None) is None
