"""What BuildKit is told about its caches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from perf.build import Built, Progress, Step
from perf.change import Line
from perf.comparison.peers.buildkit import (
    S3,
    BuildKit,
    Caches,
    Inline,
    Local,
    Plain,
    Registry,
    build_spans,
)
from perf.comparison.place import Bucket, Place, Store
from perf.project import Project

_SECRET = "not to be shown"


@pytest.fixture
def place() -> Place:
    """A place without services."""
    bucket = Bucket(
        Path("/s3/data/cache"), "cache", "http://s3", {"AWS_SECRET_ACCESS_KEY": _SECRET}
    )
    project = Project("go", Path("/context"), Path("/context/Dockerfile"), Line("main.go"))
    images = SimpleNamespace(host="registry")
    return cast(
        "Place",
        SimpleNamespace(project=project, images=images, bucket=lambda: bucket, pod=""),
    )


def _told(peer: BuildKit, *, first: bool) -> list[str]:
    argv = peer.job(first=first).command(["buildctl"], Path("/metadata"))
    return [word for word in argv if word.startswith(("--output", "--export", "--import"))]


def test_image_and_cache_have_the_same_compression(place: Place) -> None:
    peer = Registry(place, "zstd")
    cache = "type=registry,ref=registry/cache/go:latest"
    image = "--output=type=image,name=registry/built/go:latest,push=true,compression=zstd"

    assert _told(peer, first=True) == [
        image,
        f"--export-cache={cache},mode=max,compression=zstd,force-compression=true",
    ]
    assert _told(peer, first=False) == [image, f"--import-cache={cache}"]


def test_without_cache_mounts_it_is_the_other_dockerfile(tmp_path: Path, place: Place) -> None:
    place.project = replace(place.project, context=tmp_path, dockerfile=tmp_path / "Dockerfile")
    peer = Plain(place)

    def dockerfile() -> str:
        argv = peer.job().command(["buildctl"], Path("/metadata"))
        return next(word for word in argv if word.startswith("--opt=filename="))

    assert dockerfile() == "--opt=filename=Dockerfile"
    (tmp_path / "Dockerfile.plain").touch()
    assert dockerfile() == "--opt=filename=Dockerfile.plain"
    assert peer.name == "buildkit-registry-plain"
    assert "--import-cache=type=registry,ref=registry/cache/go:latest" in _told(peer, first=False)


def test_a_rebuilt_image_says_again_what_it_was_made_of(place: Place) -> None:
    peer = Inline(place, "buildkit-inline")

    assert _told(peer, first=False) == [
        "--output=type=image,name=registry/built/go:latest,push=true",
        "--export-cache=type=inline",
        "--import-cache=type=registry,ref=registry/built/go:latest",
    ]


def test_the_first_build_makes_everything_and_later_ones_the_image(place: Place) -> None:
    place.project = replace(place.project, everything="all")
    peer = BuildKit(place, "one")

    assert "--opt=target=all" in peer.job(first=True).command(["buildctl"], Path("/metadata"))
    later = peer.job().command(["buildctl"], Path("/metadata"))
    assert not [word for word in later if word.startswith("--opt=target=")]


def test_credentials_of_s3_are_the_daemons_alone(place: Place) -> None:
    peer = S3(place, "gzip")
    where = "type=s3,region=us-east-1,bucket=cache,prefix=buildkit-s3-gzip/,name=go"
    how = "endpoint_url=http://s3,use_path_style=true"

    assert peer.caches("", first=True) == Caches(written=f"{where},{how},mode=max")
    assert peer.caches("", first=False) == Caches(read=f"{where},{how}")
    assert peer.credentials() == {"AWS_SECRET_ACCESS_KEY": _SECRET}
    assert _SECRET not in repr(place.bucket())


def test_a_bake_finds_the_directories_that_it_writes_its_caches_to(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, "store", lambda _: Store(tmp_path, "http://store"), raising=False)
    written = Local(place).caches("one", first=True).written
    assert written == "type=local,dest=one,mode=max"
    zstd = Local(place, "zstd")
    form = "compression=zstd,force-compression=true"
    assert zstd.name == "buildkit-local-zstd"
    assert zstd.caches("one", first=True).written == f"{written},{form}"
    assert zstd.job().form == "compression=zstd"
    assert (tmp_path / "one").is_dir()


def test_several_images_are_baked_each_with_a_cache_of_its_own(place: Place) -> None:
    project = replace(place.project, targets=("one", "two"), arguments={"BASE": "b:1"})
    place = cast("Place", SimpleNamespace(**{**vars(place), "project": project}))
    argv = Registry(place, "zstd").job().command(["buildx"], Path("/metadata"))

    assert argv[:2] == ["env", "--chdir=/context"]
    variables = {"REGISTRY=registry/built/go", "TAG=latest", "DOCKERFILE=Dockerfile", "BASE=b:1"}
    assert variables <= set(argv)
    assert argv[argv.index("buildx") + 1] == "bake"
    assert [word for word in argv if "cache" in word] == [
        f"--set={name}.cache-from=type=registry,ref=registry/cache/go/{name}:latest"
        for name in ("one", "two")
    ]


def test_steps_are_shown_when_they_ran_and_not_when_the_client_says() -> None:
    # The client waited 2 s for its daemon.
    steps = {
        "a": Step("RUN make", intervals={"1970-01-01T00:01:40.5Z": 3.0}),
        "b": Step("exporting", intervals={"1970-01-01T00:01:43.5Z": 0.5}),
        "c": Step("short", intervals={"1970-01-01T00:01:40Z": 0.01}),
    }
    built = Built([], 6.0, 100.0, 106.0, Progress(steps), "")

    assert build_spans(built, 99.0) == [("RUN make", 3.5, 6.5), ("exporting", 6.5, 7.0)]
