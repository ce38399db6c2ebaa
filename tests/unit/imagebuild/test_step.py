"""The order of the step's parts: what follows what, and what does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildsvc.errors import BuildsvcError, CannotCreate
from buildsvc.imagebuild import step as step_module
from buildsvc.imagebuild.endpoint import Endpoint
from buildsvc.imagebuild.errors import NotInRegistry, SidecarMissing
from buildsvc.imagebuild.losing import Cause
from buildsvc.imagebuild.names import ImageNames
from buildsvc.imagebuild.results import Result
from buildsvc.imagebuild.sidecarstatus import BuildSeen, Seen
from buildsvc.imagebuild.step import ImageBuild, Job
from tests.unit.imagebuild.fakes import FakeRunner, FakeStatus

NAMES = ImageNames("r.example", "app", ("1",))
DIGEST = "sha256:d"


@dataclass
class Parts:
    """Everything that the step is put together of; ``did`` is what they did, in order."""

    directory: Path
    codes: list[int] = field(default_factory=lambda: [0])
    causes: list[Cause] = field(default_factory=lambda: [Cause.OWN])
    seen: Seen | None = None
    metadata: str = json.dumps({"containerimage.digest": DIGEST})
    names: ImageNames | None = NAMES
    pushes: bool = True
    fails: dict[str, BuildsvcError] = field(default_factory=dict)
    did: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def does(self, what: str) -> None:
        self.did.append(what)
        if what in self.fails:
            raise self.fails[what]

    async def wait(self) -> Endpoint:
        self.does("wait")
        return Endpoint("tcp://here:1")

    async def refresh(self) -> dict[str, str]:
        self.does("refresh")
        return {"DOCKER_CONFIG": "private"}

    async def begin(self) -> None:
        self.does("begin")

    async def cause(self, ref: str) -> tuple[Cause, str]:
        self.does(f"cause of {ref}")
        return self.causes.pop(0), "the cache was lost (why)"

    async def verify(self, names: ImageNames, digest: str) -> None:
        assert names == NAMES
        self.does(f"verify {digest}")

    def prepare(self) -> None:
        self.does("prepare")

    def write(self, result: Result) -> None:
        self.does("write")
        self.results.append(result)

    def built(self, arguments: Sequence[str]) -> None:
        self.does("build")
        assert not (self.directory / "ref").exists()
        assert arguments[:2] == ["--addr=tcp://here:1", "build"]
        (self.directory / "metadata.json").write_text(self.metadata)
        (self.directory / "ref").write_text("ref\n")

    async def run(self) -> int:
        job = Job(["--opt=a"], self.names, self.pushes, self.directory)
        self.runner = FakeRunner(self.codes, does=self.built)
        return await ImageBuild(
            job, waiter=self, login=self, buildctl=self.runner, judge=self,
            status=FakeStatus([self.seen]), verifier=self, verifies=True, writers=[self],
            say=self.said.append,
        ).run()  # fmt: skip


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    monkeypatch.setattr(step_module, "_PAUSE", 0.0)
    return Parts(tmp_path)


ATTEMPT = ["wait", "refresh", "begin", "build"]
REST = [f"verify {DIGEST}", "write"]


async def test_a_build_that_succeeds(parts: Parts) -> None:
    parts.seen = Seen("ready", ready=True, builds={"ref": BuildSeen("ok", "", 2, 3)})
    assert await parts.run() == 0
    assert parts.did == ["prepare", *ATTEMPT, *REST]
    (result,) = parts.results
    assert (result.digest, result.reference) == (DIGEST, f"r.example/app:1@{DIGEST}")
    assert (result.pushed, result.verified, result.attempts) == (True, True, 1)
    assert (result.steps_cached, result.steps_total) == (2, 3)
    assert "2 of 3 steps cached" in parts.said[-1]
    assert parts.runner.environments == [{"DOCKER_CONFIG": "private"}]


async def test_the_end_of_the_build_may_be_told_later(parts: Parts) -> None:
    parts.seen = Seen("ready", ready=True, builds={"ref": BuildSeen("", "", None, None)})
    assert await parts.run() == 0
    assert parts.results[0].steps_total is None
    assert "steps" not in parts.said[-1]


@pytest.mark.parametrize("cause", [Cause.OWN, Cause.SIDECAR, Cause.UNKNOWN])
async def test_a_failure_that_is_not_the_caches(parts: Parts, cause: Cause) -> None:
    parts.codes, parts.causes = [1], [cause]
    assert await parts.run() == 1
    assert parts.did == ["prepare", *ATTEMPT, "cause of ref"]
    assert (parts.said == []) == (cause is Cause.OWN)


async def test_a_lost_cache_is_built_again(parts: Parts) -> None:
    parts.codes, parts.causes = [1, 0], [Cause.CACHE]
    assert await parts.run() == 0
    assert parts.did == ["prepare", *ATTEMPT, "cause of ref", *ATTEMPT, *REST]
    assert parts.said[0] == (
        "the cache was lost (why): the build's failure is not its own; running it again"
    )
    assert parts.results[0].attempts == 2
    assert "ran 2 times" in parts.said[-1]


async def test_never_a_second_time(parts: Parts) -> None:
    parts.codes, parts.causes = [1, 7], [Cause.CACHE, Cause.CACHE]
    assert await parts.run() == 7
    assert parts.did == ["prepare", *ATTEMPT, "cause of ref", *ATTEMPT]


async def test_a_build_that_a_signal_ended_is_not_looked_into(parts: Parts) -> None:
    parts.codes = [137]
    assert await parts.run() == 137
    assert parts.did == ["prepare", *ATTEMPT]


async def test_what_is_not_pushed_is_not_verified(parts: Parts) -> None:
    parts.pushes, parts.names, parts.metadata = False, None, ""
    assert await parts.run() == 0
    assert parts.did == ["prepare", *ATTEMPT, "write"]
    (result,) = parts.results
    assert (result.digest, result.reference, result.pushed, result.verified) == (
        "",
        "",
        False,
        False,
    )


@pytest.mark.parametrize("metadata", ["", "no JSON", "[]", "{}"])
async def test_a_push_without_a_digest(parts: Parts, metadata: str) -> None:
    parts.metadata = metadata
    with pytest.raises(NotInRegistry, match="buildctl does not say what it has pushed"):
        await parts.run()
    assert "write" not in parts.did


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("prepare", CannotCreate("no")),
        ("wait", SidecarMissing("no")),
        (f"verify {DIGEST}", NotInRegistry("no")),
    ],
)
async def test_a_failure_of_its_own_ends_the_step(
    parts: Parts, where: str, error: BuildsvcError
) -> None:
    parts.fails[where] = error
    with pytest.raises(type(error)):
        await parts.run()
    assert parts.did[-1] == where


async def test_a_step_that_is_cancelled_cancels_the_build(parts: Parts) -> None:
    job = Job([], NAMES, pushes=True, directory=parts.directory)
    runner = FakeRunner([], does=parts.built, hangs=True)
    task = asyncio.create_task(
        ImageBuild(
            job, waiter=parts, login=parts, buildctl=runner, judge=parts,
            status=FakeStatus([None]), verifier=parts, verifies=True, writers=[parts],
            say=parts.said.append,
        ).run()
    )  # fmt: skip
    await runner.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert parts.did == ["prepare", *ATTEMPT]
