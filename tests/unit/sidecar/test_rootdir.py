"""One sidecar a root, and nothing of an earlier one reused."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from buildsvc.errors import CannotCreate, RootInUse
from sidecar import rootdir
from sidecar.paths import left_over, next_number
from sidecar.rootdir import locked, sweep


async def test_a_second_sidecar_is_refused(tmp_path: Path) -> None:
    async with locked(tmp_path / "root", asyncio.Event()):
        with pytest.raises(RootInUse, match="another sidecar"):
            async with locked(tmp_path / "root", asyncio.Event()):
                pass
    async with locked(tmp_path / "root", asyncio.Event()) as again:
        assert again.path == tmp_path / "root"


async def test_the_namespace_of_a_killed_sidecar_is_waited_for(tmp_path: Path) -> None:
    async with locked(tmp_path / "root", asyncio.Event()) as first:
        guards = os.dup(first.namespace_lock)
    entering = asyncio.create_task(_enter(tmp_path / "root"))
    await asyncio.sleep(3 * rootdir._LOOK_EVERY)  # It has looked, and found the lock taken.
    assert not entering.done()
    os.close(guards)
    await entering


async def test_who_is_told_to_stop_waits_no_longer(tmp_path: Path) -> None:
    async with locked(tmp_path / "root", asyncio.Event()) as first:
        guards = os.dup(first.namespace_lock)
    stop = asyncio.Event()
    entering = asyncio.create_task(_enter(tmp_path / "root", stop))
    await asyncio.sleep(3 * rootdir._LOOK_EVERY)  # It waits.
    stop.set()
    async with asyncio.timeout(rootdir._LEFT_OVER_WITHIN / 2):
        with pytest.raises(RootInUse, match="earlier sidecar"):
            await entering
    os.close(guards)


async def _enter(root: Path, stop: asyncio.Event | None = None) -> None:
    async with locked(root, stop or asyncio.Event()):
        pass


async def test_a_namespace_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rootdir, "_LEFT_OVER_WITHIN", 0.01)
    async with locked(tmp_path / "root", asyncio.Event()) as first:
        guards = os.dup(first.namespace_lock)
    with pytest.raises(RootInUse, match="earlier sidecar"):
        await _enter(tmp_path / "root")
    os.close(guards)


async def test_the_namespaces_lock_is_for_the_guard_to_inherit(tmp_path: Path) -> None:
    async with locked(tmp_path / "root", asyncio.Event()) as root:
        with (tmp_path / "root/namespace.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert os.get_inheritable(root.namespace_lock) is False


async def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="cannot be used"):
        await _enter(tmp_path / "file" / "root")


async def test_sweeping_deletes_what_is_named(tmp_path: Path) -> None:
    """With a program in rootlesskit's place that runs its arguments as they are."""
    here = tmp_path / "here"
    here.write_text('#!/bin/sh\nexec "$@"\n')
    here.chmod(0o755)
    for name in ("epoch-1", "epoch-2"):
        (tmp_path / name / "deep").mkdir(parents=True)
    left = await asyncio.to_thread(left_over, tmp_path)
    assert left == [tmp_path / "epoch-1", tmp_path / "epoch-2"]
    assert next_number(left) == 3
    assert await sweep(here, left[:1], {"PATH": os.environ["PATH"]}) == 0
    assert await asyncio.to_thread(left_over, tmp_path) == left[1:]


async def test_a_sweep_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    slow, began = tmp_path / "slow", tmp_path / "began"
    os.mkfifo(began)
    slow.write_text(f"#!/bin/sh\necho > {began}\nexec sleep 1000\n")
    slow.chmod(0o755)
    sweeping = asyncio.create_task(sweep(slow, [tmp_path / "x"], {"PATH": os.environ["PATH"]}))
    await asyncio.to_thread(began.read_bytes)
    sweeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweeping
