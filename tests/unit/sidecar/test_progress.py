"""The display on a terminal: what it says, and that it ends."""

from __future__ import annotations

import asyncio
from io import StringIO

from rich.console import Console

from sidecar.progress import render, show
from sidecar.status import Generation, Phase, Status
from sidecar.timeline import Kind


def drawn(status: Status) -> str:
    out = StringIO()
    Console(file=out, width=200).print(render(status))
    return out.getvalue()


def test_it_says_what_is_going_on() -> None:
    status = Status()
    status.enter(Phase.RESTORING, "the cache is located")
    assert "restoring (the cache is located)" in drawn(status)
    status.serves("127.0.0.1:1", tls=False, isolated=True)
    status.restores(Generation("main", "main", 3, 0.0), 9)
    status.enter(Phase.READY)
    status.begin(Kind.FETCH, "done", why="rest").end(bytes=2_000_000)
    status.begin(Kind.FETCH, "n" * 100, why="demand")
    text = drawn(status)
    for part in ("tcp://127.0.0.1:1", "main #3", "1/9 objects", "2.0 MB", "nnn…nnn", "(demand)"):
        assert part in text
    assert "done" not in text
    status.lost_root(1, "the agent died")
    assert "run-again" in drawn(status)


async def test_it_ends_with_the_sidecar() -> None:
    status = Status()
    showing = asyncio.create_task(show(status, Console(file=StringIO(), force_terminal=True)))
    await asyncio.sleep(0)
    status.enter(Phase.STOPPED)
    await showing
