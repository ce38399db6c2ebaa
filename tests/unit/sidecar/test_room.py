"""Room on a disk: what must stay free, and when nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildsvc.errors import CannotCreate
from sidecar.room import Room

MIB = 1 << 20


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    """A disk with 100 MiB free at the start; ``leave`` changes that."""
    leave(monkeypatch, 100 * MIB)
    return Room(tmp_path)


def leave(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(Room, "free", free)


def test_free_is_what_the_kernel_says(tmp_path: Path) -> None:
    assert Room(tmp_path).free > 0


def test_a_fifth_is_left_to_builds(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room.has(80 * MIB)
    assert not room.has(80 * MIB + 1)
    leave(monkeypatch, 20 * MIB)
    assert room.has(0)
    leave(monkeypatch, 20 * MIB - 1)
    assert not room.has(0)


def test_a_small_disk_is_left_what_a_daemon_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, 20 * MIB)
    assert not Room(tmp_path).has(5 * MIB)


def test_a_daemon_needs_room(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.expect()
    leave(monkeypatch, 15 * MIB)
    with pytest.raises(CannotCreate, match=r"expected: 16 MiB.*found: 15360 KiB.*--root"):
        room.expect()


def test_a_build_lacks_room_where_its_error_or_the_disk_says_so(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not room.failed_for_want_of_it("write /clients: no space left on device")
    leave(monkeypatch, 10 * MIB)
    assert not room.failed_for_want_of_it("exit code: 1")
    assert room.failed_for_want_of_it("write /x: no space left on device")
    assert room.failed_for_want_of_it("cp: No space left on device")
    leave(monkeypatch, 4096)
    assert room.failed_for_want_of_it("exit code: 1")
