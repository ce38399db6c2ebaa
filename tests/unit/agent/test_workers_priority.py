"""Packing must not slow a build: which threads run at which priority."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from sidecar.agent.priority import IdleThread


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
