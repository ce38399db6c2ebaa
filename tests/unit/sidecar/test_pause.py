"""Pausing a process: all its threads, and it always goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.pause import children, paused

_PROGRAM = """
import sys, threading, time
def spin():
    while True:
        time.sleep(0.0005)
for _ in range(8):
    threading.Thread(target=spin, daemon=True).start()
print("running", flush=True)
sys.stdin.read()
"""


@pytest.fixture
async def program() -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _PROGRAM,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert await child.stdout.readline() == b"running\n"
    yield child
    child.stdin.close()
    await child.wait()


def _states(pid: int) -> set[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(task / "stat").read_text().rsplit(")", 1)[1].split()[0] for task in tasks}


async def test_every_thread_is_stopped_inside_and_goes_on_after(
    program: asyncio.subprocess.Process,
) -> None:
    for _ in range(20):
        async with paused(program.pid):
            assert _states(program.pid) == {"T"}
    assert "T" not in _states(program.pid)


async def test_it_goes_on_after_a_failure_inside(program: asyncio.subprocess.Process) -> None:
    with pytest.raises(ValueError, match="inside"):
        async with paused(program.pid):
            raise ValueError("inside")
    assert "T" not in _states(program.pid)


async def test_a_process_that_is_gone_is_told() -> None:
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()
    with pytest.raises(ProcessLookupError):
        async with paused(child.pid):
            pass


async def test_children_are_those_that_have_not_ended(
    program: asyncio.subprocess.Process, tmp_path: Path
) -> None:
    async def ours() -> list[int]:
        return await asyncio.to_thread(children, os.getpid())

    assert program.pid in await ours()
    assert await asyncio.to_thread(children, program.pid) == []
    # Its name may hold anything.
    strange = tmp_path / "a) Z 1 (b"
    strange.symlink_to("/bin/sleep")
    child = await asyncio.create_subprocess_exec(strange, "60")
    assert child.pid in await ours()
    child.kill()
    await child.wait()
    assert child.pid not in await ours()
