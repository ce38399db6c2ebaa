"""The walk: order, counting, depth, and what happens when the tree moves."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from sidecar.agent import usage
from sidecar.agent.dirfd import CACHED, DIRECTORY, Directories
from sidecar.agent.errors import ChangedWhileReading
from sidecar.agent.scan import HELD_LEVELS, Found, Scan, read_xattrs
from tests.unit.agent.ondisk import make_everything, opened


def walk(
    root: Path, meddle: Mapping[bytes, Callable[[], object]] = MappingProxyType({})
) -> tuple[list[Found], Scan]:
    """All entries; what `meddle` has for a path is called in the middle of the walk."""
    with opened(root) as descriptor:
        scan = Scan(descriptor)
        entries = []
        for found in scan:
            entries.append(found)
            if found.path in meddle:
                meddle[found.path]()
        return entries, scan


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_directory_comes_before_its_subtree_in_one_piece(tmp_path: Path) -> None:
    for path in ("b/x/1", "b/x-y/2", "b/3", "a", "c"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found, scan = walk(tmp_path)
    assert [each.path for each in found] == [
        b"", b"a", b"c", b"b", b"b/3", b"b/x", b"b/x/1", b"b/x-y", b"b/x-y/2",
    ]  # fmt: skip
    assert list(zip(scan.parents, scan.names, strict=True)) == [
        (0, b""),
        (0, b"b"),
        (1, b"x"),
        (1, b"x-y"),
    ]


def test_usage_is_what_du_counts(tmp_path: Path) -> None:
    make_everything(tmp_path / "tree")
    _, scan = walk(tmp_path / "tree")

    def du(*options: str) -> int:
        command = ["du", "-s", *options, str(tmp_path / "tree")]
        return int(subprocess.run(command, check=True, capture_output=True).stdout.split()[0])

    assert scan.usage_bytes == du("-B1")
    assert scan.usage_inodes == du("--inodes")
    measured = usage.measure(str(tmp_path / "tree"))
    assert (measured.bytes, measured.inodes) == (du("-B1"), du("--inodes"))


def test_hard_links_name_the_first_of_them(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "dir").mkdir()
    os.link(tmp_path / "one", tmp_path / "dir/two")
    os.link(tmp_path / "one", tmp_path / "three")
    found, _ = walk(tmp_path)
    assert {each.path: each.link for each in found} == {
        b"": -1, b"one": -1, b"three": 1, b"dir": -1, b"dir/two": 1,
    }  # fmt: skip


def test_no_depth_is_too_deep(tmp_path: Path) -> None:
    """Far beyond PATH_MAX, with a bounded number of open directories."""
    name = b"d" * 200
    depth = HELD_LEVELS + 50
    descriptor = os.open(tmp_path, DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open(b"bottom", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    before = descriptors()
    with opened(tmp_path) as root:
        scan = Scan(root)
        most = 0
        paths = []
        for found in scan:
            most = max(most, descriptors())
            paths.append(found.path)
        assert most - before <= HELD_LEVELS + 3
        assert paths[-1] == b"/".join([name] * depth) + b"/bottom"
        directories = Directories(os.dup(root), scan.parents, scan.names)
        assert stat.S_ISREG(os.stat(b"bottom", dir_fd=directories.get(depth)).st_mode)
        directories.close()
    assert descriptors() == before
    subprocess.run(["rm", "-r", tmp_path / os.fsdecode(name)], check=True)


def test_few_directories_are_open_at_a_time(tmp_path: Path) -> None:
    count = 3 * CACHED
    for number in range(count):
        (tmp_path / f"{number:04}").mkdir()
    _, scan = walk(tmp_path)
    before = descriptors()
    directories = Directories(os.open(tmp_path, DIRECTORY), scan.parents, scan.names)
    for number in (*range(count + 1), *range(count, 0, -1)):
        status = os.fstat(directories.get(number))
        assert os.path.samestat(status, os.stat(tmp_path / os.fsdecode(scan.names[number])))
        assert descriptors() - before <= CACHED + 1
    directories.close()
    assert descriptors() == before


@pytest.mark.parametrize("at", [b"", b"sub", b"sub/below"])
def test_a_directory_that_changes_is_noticed(tmp_path: Path, at: bytes) -> None:
    (tmp_path / "sub/below").mkdir(parents=True)
    (tmp_path / "sub/below/file").touch()
    before = descriptors()
    with pytest.raises(ChangedWhileReading):
        walk(tmp_path, {b"sub/below/file": (tmp_path / os.fsdecode(at) / "new").touch})
    assert descriptors() == before


def test_a_directory_that_vanishes_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ChangedWhileReading):
        walk(tmp_path, {b"a": (tmp_path / "b").rmdir})


def test_only_the_layers_own_xattrs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.setxattr(path, "user.b", b"2")
    os.setxattr(path, "user.a", b"\0")
    if os.geteuid() == 0:
        os.setxattr(path, "trusted.machine", b"no")
    assert read_xattrs(os.fsencode(path)) == ((b"user.a", b"\0"), (b"user.b", b"2"))


def test_usage_of_directories_deeper_than_a_path_can_name(tmp_path: Path) -> None:
    shallow = usage.measure(str(tmp_path))
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    measured = usage.measure(str(tmp_path))
    assert measured.inodes == shallow.inodes + 31
