import os
import subprocess
import sys

import pytest

from perf.watch import (
    Memory,
    Stat,
    cpu_by_role,
    cpu_seconds,
    descendants,
    listens,
    memory_of,
    read_stat,
    role,
)


def test_stat_of_a_command_with_blanks_and_parentheses() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = "S 41 1 1 0 -1 4194560 100 0 0 0 {0} {0} {1} {1} 20 0".format(ticks, 2 * ticks)

    assert read_stat(f"42 (a) b (c) {fields}".encode()) == Stat(41, 6.0)


def test_descendants_are_everything_below() -> None:
    table = {1: Stat(0, 0), 2: Stat(1, 0), 3: Stat(2, 0), 4: Stat(1, 0), 5: Stat(9, 0)}

    assert sorted(descendants(2, table)) == [2, 3]
    assert sorted(descendants(1, table)) == [1, 2, 3, 4]
    assert descendants(7, table) == []


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/v/bin/python -m sidecar run --root=/r", "sidecar"),
        ("/v/bin/sidecar run --root=/r", "sidecar"),
        ("/v/bin/python -m sidecar.agent --root=/r", "agent"),
        ("/v/bin/python -m sidecar.agent.worker unpack 5", "worker"),
        ("/v/bin/python -I -S -c from sidecar.agent.guard import main; main() /x", "guard"),
        ("/t/buildkitd --config=/c", "buildkitd"),
        ("/proc/self/exe --state-dir=/s", "rootlesskit"),
        ("runc run -m sidecar.agents", "runc"),
    ],
)
def test_role(command: str, name: str) -> None:
    assert role(command) == name


def test_peaks_of_one_moment_count_together() -> None:
    memory = Memory()

    memory.add([("sidecar", 100, 100), ("agent", 10, 10), ("worker", 70, 80)])
    memory.add([("sidecar", 20, 100), ("agent", 60, 60), ("worker", 30, 90)])

    assert memory.together == 110
    assert memory.roles == {"sidecar": 100, "agent": 60, "worker": 70}
    assert memory.high_water["worker"] == 90


def test_own_memory_and_that_of_nobody() -> None:
    found = memory_of(os.getpid())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    assert found is not None
    assert 0 < found[1] <= found[2]
    assert memory_of(gone.pid) is None


def test_cpu_of_a_child_that_was_waited_for_counts() -> None:
    before = cpu_seconds(os.getpid())
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)

    after = cpu_seconds(os.getpid())
    assert after - before >= 0.15
    assert sum(cpu_by_role(os.getpid()).values()) == pytest.approx(after, abs=0.1)


def test_listening_is_told_from_connected() -> None:
    table = (
        "  sl  local_address rem_address   st …\n"
        "   0: 0100007F:04D2 00000000:0000 0A 00000000:00000000\n"
        "   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000\n"
    )

    assert listens(1234, table)
    assert not listens(8080, table)
    assert not listens(40000, table)
