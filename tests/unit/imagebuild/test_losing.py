"""Whether a build's failure is the cache's: what the sidecar says, soon or late or not at all."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from buildsvc.imagebuild import losing
from buildsvc.imagebuild.losing import Cause, StatusJudge
from buildsvc.imagebuild.sidecarstatus import BuildSeen, Seen
from tests.unit.imagebuild.fakes import FakeStatus

BEFORE = Seen("ready", ready=True, started_unix=1.0)
FAILED = replace(BEFORE, builds={"ref": BuildSeen("failed", "exit code: 7", 0, 3)})
DIED = replace(BEFORE, builds={"ref": BuildSeen("failed", "buildkitd died", None, None)})
RUNNING = BuildSeen("", "", None, None)
MOVING = replace(DIED, ready=False, phase="starting-daemon")
LOST = replace(MOVING, roots_lost=1, run_again=True, advice_detail="the cache was lost (why)")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losing, "_PAUSE", 0.0)
    monkeypatch.setattr(losing, "_NOTICED", 0.05)
    monkeypatch.setattr(losing, "_EXPLAINED", 0.1)
    monkeypatch.setattr(losing, "_AT_MOST", 0.2)


async def cause(*says: Seen | None, ref: str = "ref") -> tuple[Cause, str]:
    judge = StatusJudge(FakeStatus([*says]))
    await judge.begin()
    return await judge.cause(ref)


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ([BEFORE, FAILED], Cause.OWN),
        # It never came to the daemon.
        ([BEFORE, BEFORE], Cause.OWN),
        ([BEFORE, LOST], Cause.CACHE),
        # The sidecar learns of the failure first, then of its reason.
        ([BEFORE, FAILED, FAILED, LOST], Cause.CACHE),
        ([BEFORE, DIED, MOVING, MOVING, LOST], Cause.CACHE),
        # Another build has succeeded on the new root since.
        ([BEFORE, replace(LOST, run_again=False)], Cause.CACHE),
        # The daemon died, and came back on the same root.
        ([BEFORE, DIED, MOVING, DIED], Cause.OWN),
        # It was lost earlier, under another build.
        ([replace(BEFORE, roots_lost=1), replace(FAILED, roots_lost=1)], Cause.OWN),
        ([replace(LOST, advice_unix=5.0), replace(LOST, advice_unix=5.0)], Cause.OWN),
        # No status before or after.
        ([None, None], Cause.UNKNOWN),
        ([None, LOST], Cause.UNKNOWN),
        ([BEFORE, None], Cause.SIDECAR),
        ([BEFORE, replace(BEFORE, started_unix=2.0)], Cause.SIDECAR),
    ],
)
async def test_causes(says: list[Seen | None], found: Cause) -> None:
    assert (await cause(*says))[0] is found


@pytest.mark.parametrize("before_that", [DIED, MOVING, replace(DIED, builds={"ref": RUNNING})])
async def test_a_reason_that_comes_late(monkeypatch: pytest.MonkeyPatch, before_that: Seen) -> None:
    monkeypatch.setattr(losing, "_NOTICED", 0.0)
    monkeypatch.setattr(losing, "_EXPLAINED", 60.0)
    monkeypatch.setattr(losing, "_AT_MOST", 60.0)
    assert (await cause(BEFORE, before_that, before_that, LOST))[0] is Cause.CACHE


async def test_the_sidecars_words() -> None:
    assert await cause(BEFORE, LOST) == (Cause.CACHE, "the cache was lost (why)")


async def test_a_root_that_is_about_to_be_given_up() -> None:
    """For want of room: the advice comes before the root is lost."""
    soon = replace(FAILED, run_again=True, advice_unix=time.time() + 1, advice_detail="no room")
    assert await cause(BEFORE, soon) == (Cause.CACHE, "no room")
