"""What is built once beside an image, so that the cache holds it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from buildsvc.cache.chunks import split_digests
from buildsvc.cache.packs import PackWriter
from perf.ballast import BALLAST, EVERYTHING, Ballast
from perf.host import PerfError
from perf.project import scenario
from sidecar.agent.pack import Packer
from sidecar.agent.sink import ChunkSink


def _made(command: str, path: Path) -> bytes:
    subprocess.run(f"{command} > {path}", shell=True, check=True)
    return path.read_bytes()


def _fill(ballast: Ballast, tmp_path: Path) -> str:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("# other images\n")
    ballast.add(dockerfile)
    line = dockerfile.read_text().splitlines()[1]
    return line.removeprefix("RUN ").partition(" > ")[0]


@pytest.mark.parametrize("name", BALLAST)
def test_every_stage_is_made_by_the_first_build_alone(name: str, tmp_path: Path) -> None:
    project = scenario(name, tmp_path, {"BASE": "base:1"})

    lines = project.dockerfile.read_text().splitlines()
    stages = [line.split()[-1] for line in lines if line.startswith("FROM")]
    others = [f"other-{number}" for number in range(BALLAST[name].layers)]
    assert stages == ["built", *others, EVERYTHING, "app"]
    every = next(line for line in lines if line.startswith("RUN --mount"))
    assert every.count("--mount=from=other-") == len(others)
    assert project.everything == EVERYTHING
    # The last stage, which is built when no target is named, asks for none of them.
    assert not any("other-" in line for line in lines[lines.index("FROM built AS app") :])


@pytest.mark.parametrize("holes", [False, True])
def test_a_layer_has_its_size_and_no_two_chunks_alike(holes: bool, tmp_path: Path) -> None:  # noqa: FBT001
    ballast = Ballast(1, 10, holes=holes)

    content = _made(_fill(ballast, tmp_path), tmp_path / "data")

    assert len(content) == ballast.size == 10 << 20
    pieces = [content[at : at + (5 << 19)] for at in range(0, len(content), 5 << 19)]
    assert len(set(pieces)) == 4
    kept = (tmp_path / "data").stat().st_blocks * 512
    assert (kept < len(content) // 8) is holes


def test_holes_leave_chunks_that_nothing_else_is_in(tmp_path: Path) -> None:
    """Short ranges of a sparse file share chunks: then a hundred GB would have a few hundred."""
    staging, layer = tmp_path / "staging", tmp_path / "layer"
    staging.mkdir()
    layer.mkdir()
    _made(_fill(Ballast(1, 20, holes=True), tmp_path), layer / "data")
    sink = ChunkSink(PackWriter(staging), set(), lambda _: None)

    captured = Packer(sink).capture_tree(layer)
    sink.flush()

    assert len(split_digests(captured.data_digests)) >= 8


def test_a_dockerfile_without_a_place_for_them(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(PerfError, match="no line is '# other images'"):
        Ballast(1, 1).add(tmp_path / "Dockerfile")


def test_sizes_are_a_decade_apart() -> None:
    sizes = [ballast.size for ballast in BALLAST.values()]
    assert sizes == sorted(sizes)
    assert [ballast.holes for ballast in BALLAST.values()] == [False, False, False, True]
