"""The byte-exact round trip inside rootlesskit's user namespace, and from one to another."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"

pytestmark = pytest.mark.integration


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory of the rootless user; what other ids own in it goes away in the namespace."""
    path = Path(tempfile.mkdtemp(prefix="roundtrip-"))
    if os.geteuid() == 0:
        builder = pwd.getpwnam("builder")
        os.chown(path, builder.pw_uid, builder.pw_gid)
    yield path
    rootless("rootlesskit", "rm", "-rf", *map(str, path.iterdir()))
    shutil.rmtree(path)


def rootless(*command: str) -> None:
    subprocess.run([ROOT / "tools/as-builder", *command], check=True, cwd="/")


def program(*arguments: str) -> list[str]:
    return ["python", str(PROGRAMS / "roundtrip.py"), *arguments]


def test_a_layer_comes_back_exactly(scratch: Path) -> None:
    rootless("rootlesskit", *program("capture", str(scratch)))
    rootless("rootlesskit", *program("restore", str(scratch), "target"))
    source = (scratch / "source.txt").read_text()
    for kept in (
        "'security.capability': b'\\x01\\x00\\x00\\x02",
        "'system.posix_acl_default'",
        "'user.overlay.opaque': b'y'",
        "(60000, 65532)",
        "'0o106755'",
        "'device': 0",
        "b'everything/\\xff\\xfe name'",
    ):
        assert kept in source, "the layer does not hold what this test is for"
    assert (scratch / "target.txt").read_text() == source


def test_a_layer_moves_between_maps_of_ids(scratch: Path) -> None:
    rootless("rootlesskit", *program("capture", str(scratch)))
    before = (scratch / "source/privileged/capable").stat().st_uid
    other = ["python", str(PROGRAMS / "other_map.py")]
    for step in (
        # What the packs need no owner for is made anew by the other root.
        ["rm", "-rf", str(scratch / "source"), str(scratch / "work"), str(scratch / "merged")],
        ["chmod", "-R", "a+rX", str(scratch)],
    ):
        rootless("rootlesskit", *step)
    rootless(*other, *program("restore", str(scratch), "target"))
    target = (scratch / "target.txt").read_text()
    after = (scratch / "target/privileged/capable").stat().st_uid
    rootless(*other, "rm", "-rf", str(scratch / "target"), str(scratch / "work"))
    assert target == (scratch / "source.txt").read_text()
    assert before != after, "both namespaces have the same map"
