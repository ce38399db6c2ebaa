"""Running buildctl: exit codes, signals, and nothing left behind. The fake keeps the contract."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from buildsvc.errors import EnvironmentUnfit
from buildsvc.imagebuild.runner import Buildctl, Runner
from tests.unit.imagebuild.fakes import FakeRunner, script

ENVIRONMENT = {"PATH": os.environ["PATH"]}


class Told:
    """Which signal the step got."""

    def __init__(self, number: int = 0) -> None:
        self.signal = number


def real(tmp_path: Path, text: str, number: int = 0, ending: float = 30) -> Buildctl:
    return Buildctl(str(script(tmp_path / "program", text)), Told(number), ending=ending)


Make = Callable[[Path], Runner]


@pytest.mark.parametrize(
    "make", [lambda tmp: real(tmp, "exit $1"), lambda _: FakeRunner([0, 1, 7])]
)
async def test_the_contract_of_exit_codes(tmp_path: Path, make: Make) -> None:
    runner = make(tmp_path)
    assert [await runner.run([str(code)], ENVIRONMENT) for code in (0, 1, 7)] == [0, 1, 7]


@pytest.mark.parametrize(
    "make",
    [lambda tmp: real(tmp, "echo said >&2; exit 3"), lambda _: FakeRunner([], [(3, "said\n")])],
)
async def test_the_contract_of_asking(tmp_path: Path, make: Make) -> None:
    assert await make(tmp_path).ask([], ENVIRONMENT, 60) == (3, "said\n")


@pytest.mark.parametrize(
    "make", [lambda tmp: real(tmp, "exec sleep 600"), lambda _: FakeRunner([], hangs=True)]
)
async def test_the_contract_of_impatience(tmp_path: Path, make: Make) -> None:
    with pytest.raises(TimeoutError):
        await make(tmp_path).ask([], ENVIRONMENT, 0.05)


@pytest.mark.parametrize(
    "make", [lambda _: Buildctl("/nowhere", Told()), lambda _: FakeRunner([], missing=True)]
)
async def test_the_contract_of_what_is_missing(tmp_path: Path, make: Make) -> None:
    for asked in (make(tmp_path).run([], {}), make(tmp_path).ask([], {}, 1)):
        with pytest.raises(EnvironmentUnfit, match="buildctl cannot be started"):
            await asked


async def test_a_death_by_signal_is_told_as_a_shell_does(tmp_path: Path) -> None:
    assert await real(tmp_path, "kill -9 $$").run([], ENVIRONMENT) == 137


async def test_output_is_not_touched(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    await real(tmp_path, "echo out; echo err >&2").run([], ENVIRONMENT)
    assert capfd.readouterr() == ("out\n", "err\n")


async def started(runner: Runner, mark: Path) -> asyncio.Task[int]:
    task = asyncio.create_task(runner.run([str(mark)], ENVIRONMENT))
    await there(mark, task)
    return task


async def there(mark: Path, task: asyncio.Task[int]) -> None:
    """Wait for a file that the program makes, which nothing tells of."""
    while not mark.exists():
        assert not task.done()
        await asyncio.sleep(0.01)


async def test_the_step_s_signal_is_passed_on_to_the_group(tmp_path: Path) -> None:
    """And the program's own end is waited for."""
    # Not `wait`: a signal just before it is only noticed after it. Not SIGINT: no shell can trap
    # what was ignored when it began, as it is in whatever was started in the background.
    text = 'trap "echo got > $1.got; exit 1" USR1; : > $1; while :; do sleep 0.05; done'
    task = await started(real(tmp_path, text, signal.SIGUSR1), tmp_path / "mark")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "mark.got").read_text() == "got\n"


@pytest.mark.parametrize("again", [True, False])
async def test_a_program_that_does_not_end_is_killed(tmp_path: Path, again: bool) -> None:  # noqa: FBT001
    """After its time, or at the second signal."""
    text = 'trap "touch $1.got" TERM; : > $1; while :; do sleep 0.05; done'
    runner = real(tmp_path, text, signal.SIGTERM, ending=600 if again else 0.2)
    task = await started(runner, tmp_path / "mark")
    task.cancel()
    if again:
        await there(tmp_path / "mark.got", task)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
