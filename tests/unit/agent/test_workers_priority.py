"""Packing must not slow a build: which threads run at which priority."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sidecar.agent.priority import IdleThread

_SESSION = """
import os
from sidecar.agent.priority import Session

session = Session()
assert os.getsid(0) == os.getpid()
for idle in (False, True, True, False, True):
    session.be(idle=idle)
    print(open("/proc/self/autogroup").read().split()[-1])
"""


def priority() -> tuple[int, int, int]:
    """Scheduling class and nice value of this thread, and its number."""
    policy = os.sched_getscheduler(0)
    return policy, os.getpriority(os.PRIO_PROCESS, 0), threading.get_native_id()


def test_only_the_idle_thread_and_its_own_are_idle() -> None:
    before = priority()
    idle = IdleThread()

    def nested() -> tuple[int, int, int]:
        with ThreadPoolExecutor(1) as encoders:
            return encoders.submit(priority).result()

    here = idle.run(priority)
    assert here[:2] == (os.SCHED_IDLE, 19)
    assert idle.run(nested)[:2] == (os.SCHED_IDLE, 19)
    assert idle.run(priority) == here
    assert priority() == before
    assert before[0] != os.SCHED_IDLE


@pytest.mark.skipif(
    not os.path.exists("/proc/self/autogroup"), reason="the kernel has no autogroup"
)
async def test_the_session_gives_way_only_while_it_is_idle() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SESSION, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    assert said.split() == [b"0", b"19", b"19", b"0", b"19"]
