"""Packing must not slow a build: which threads run at which priority."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

from sidecar.agent import priority as under_test
from sidecar.agent.priority import IdleThread, Session, session_counts

_SESSION = """
import os, time
from sidecar.agent.priority import Session

def nice():
    return int(open("/proc/self/autogroup").read().split()[-1])

session = Session()
assert os.getsid(0) == os.getpid()
for idle in (False, True, True, False, True):
    # Other processes of the machine use up the kernel's limit as well.
    for _ in range(100):
        session.be(idle=idle)
        if nice() == (19 if idle else 0):
            break
        time.sleep(0.1)
    print(nice())
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
    not os.path.exists("/proc/self/autogroup") or not session_counts(),
    reason="sessions do not share the processor here",
)
async def test_the_session_gives_way_only_while_it_is_idle() -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SESSION, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    assert said.split() == [b"0", b"19", b"19", b"0", b"19"]


@pytest.mark.parametrize(
    ("namespace", "groups", "shared", "counts"),
    [
        ("cgroup:[4026531835]", "1:cpu,cpuacct:/\n0::/user.slice\n", "", True),
        ("cgroup:[4026531835]", "1:cpu,cpuacct:/kubepods/pod1\n0::/\n", "", False),
        ("cgroup:[4026531835]", "9:name=systemd:/a\n8:cpuacct:/a\n1:cpu:/\n", "", True),
        ("cgroup:[4026531835]", "0::/\n", "cpu memory", True),
        ("cgroup:[4026531835]", "0::/kubepods.slice/pod1\n", "cpuset cpu memory", False),
        ("cgroup:[4026531835]", "0::/user.slice/user-1000.slice\n", "cpuset memory pids", True),
        ("cgroup:[4026532999]", "0::/\n", "cpu", False),
    ],
)
def test_a_session_counts_outside_of_groups_that_share_the_processor(
    tmp_path: Path, namespace: str, groups: str, shared: str, counts: object
) -> None:
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns/cgroup").symlink_to(namespace)
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / "cgroup.subtree_control").write_text(shared)
    assert session_counts(tmp_path, tmp_path) is counts


def test_nobody_waits_for_what_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def ask(path: object, *_: object, **__: object) -> object:
        asked.append(path)
        raise OSError

    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr("builtins.open", ask)
    for counts in (False, True):
        monkeypatch.setattr(under_test, "session_counts", lambda counts=counts: counts)
        Session().be(idle=True)
        assert bool(asked) is counts


def test_who_gets_to_work_does_not_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    autogroup = tmp_path / "autogroup"
    autogroup.touch()
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(under_test, "session_counts", lambda: True)
    monkeypatch.setattr(under_test, "_AUTOGROUP", str(autogroup))
    session = Session()
    session.be(idle=True)
    assert autogroup.read_bytes() == b"19"
    # A full device, as the kernel within its tenth of a second: nothing is taken.
    taken: list[float] = []
    monkeypatch.setattr("time.sleep", taken.append)
    monkeypatch.setattr("builtins.open", lambda *_, **__: _Busy())
    session.be(idle=False)
    assert taken == []
    session = Session()
    session.be(idle=True)
    assert len(taken) == 2


class _Busy:
    """A file that takes nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, data: bytes) -> None:
        del data
