"""The step, from waiting to the summary: the one place that decides what comes next."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from buildsvc.imagebuild.endpoint import Endpoint
from buildsvc.imagebuild.errors import NotInRegistry
from buildsvc.imagebuild.losing import Cause, Judge
from buildsvc.imagebuild.names import ImageNames
from buildsvc.imagebuild.results import Result, ResultWriter, reference
from buildsvc.imagebuild.runner import Runner
from buildsvc.imagebuild.sidecarstatus import Seen, StatusPage
from buildsvc.imagebuild.summary import saved_seconds, summary
from buildsvc.imagebuild.verifying import Verifier
from buildsvc.imagebuild.waiting import Waiter

#: Exit codes above are a signal's.
_KILLED = 128
#: How often, and after how many seconds, the sidecar is asked again how the build ended.
_TRIES, _PAUSE = 10, 0.1


class Login(Protocol):
    """Who gives buildctl its credentials."""

    async def refresh(self) -> dict[str, str]:
        """Read the credentials anew and return buildctl's environment."""


@dataclass(frozen=True)
class Job:
    """What is built: buildctl's arguments, the image's names, and where buildctl writes.

    ``pushes``: the arguments have it pushed under these names.
    """

    arguments: Sequence[str]
    names: ImageNames | None
    pushes: bool
    directory: Path

    @property
    def metadata(self) -> Path:
        """What buildctl says of the image, JSON."""
        return self.directory / "metadata.json"

    @property
    def ref(self) -> Path:
        """BuildKit's id of the build."""
        return self.directory / "ref"

    def command(self, endpoint: Endpoint) -> list[str]:
        """Return the command line behind ``buildctl``."""
        files = [f"--metadata-file={self.metadata}", f"--ref-file={self.ref}"]
        return [*endpoint.flags, "build", *self.arguments, *files]


class ImageBuild:
    """One step. ``say`` shows people a line."""

    def __init__(
        self,
        job: Job,
        *,
        waiter: Waiter,
        login: Login,
        buildctl: Runner,
        judge: Judge,
        status: StatusPage,
        verifier: Verifier,
        verifies: bool,
        writers: Sequence[ResultWriter],
        say: Callable[[str], None],
    ) -> None:
        self._job = job
        self._waiter = waiter
        self._login = login
        self._buildctl = buildctl
        self._judge = judge
        self._status = status
        self._verifier = verifier
        self._verifies = verifies
        self._writers = writers
        self._say = say
        self._attempts = 0
        self._seconds = 0.0

    async def run(self) -> int:
        """Return the build's exit code.

        Raises:
            BuildsvcError: the step itself failed, whatever became of the build.
        """
        for writer in self._writers:
            writer.prepare()
        if code := await self._built():
            return code
        digest = self._digest()
        if self._job.pushes and self._job.names:
            await self._verifier.verify(self._job.names, digest)
        seen = await self._told()
        result = self._result(digest, seen)
        for writer in self._writers:
            writer.write(result)
        for line in summary(result, seen):
            self._say(line)
        return 0

    async def _built(self) -> int:
        """Build, once more if the cache was lost under the build; return the exit code."""
        code = await self._attempt()
        if code == 0 or code > _KILLED:
            return code
        cause, detail = await self._judge.cause(_text(self._job.ref))
        if cause is not Cause.CACHE:
            self._explain(cause)
            return code
        self._say(f"{detail or cause.value}: the build's failure is not its own; running it again")
        return await self._attempt()

    async def _attempt(self) -> int:
        endpoint = await self._waiter.wait()
        environment = await self._login.refresh()
        for path in (self._job.metadata, self._job.ref):
            path.unlink(missing_ok=True)
        await self._judge.begin()
        self._attempts += 1
        began = time.monotonic()
        try:
            return await self._buildctl.run(self._job.command(endpoint), environment)
        finally:
            self._seconds += time.monotonic() - began

    def _explain(self, cause: Cause) -> None:
        if cause is Cause.SIDECAR:
            self._say(
                "the sidecar ended during the build, or was started again: run the step again"
            )
        elif cause is Cause.UNKNOWN:
            self._say("the build failed; whether the cache was lost is not known (--status-url)")

    def _digest(self) -> str:
        text = _text(self._job.metadata)
        digest = ""
        with suppress(ValueError, AttributeError):
            digest = json.loads(text).get("containerimage.digest", "")
        if self._job.pushes and not digest:
            raise NotInRegistry(
                "buildctl does not say what it has pushed",
                expected="containerimage.digest in its metadata",
                found=text[:200] or "nothing",
            )
        return str(digest)

    async def _told(self) -> Seen | None:
        """Return the status, with the build's end, which the sidecar can hear a little later."""
        seen = await self._status.read()
        ref, tries = _text(self._job.ref), _TRIES
        while seen is not None and tries and not _ended(seen, ref):
            await asyncio.sleep(_PAUSE)
            seen, tries = await self._status.read(), tries - 1
        return seen

    def _result(self, digest: str, seen: Seen | None) -> Result:
        names = self._job.names
        build = seen.builds.get(_text(self._job.ref)) if seen else None
        references = tuple(names.references) if names else ()
        return Result(
            digest=digest,
            image=references[0] if references else "",
            reference=reference(names, digest) if self._job.pushes else "",
            references=references,
            pushed=self._job.pushes,
            verified=self._job.pushes and self._verifies,
            seconds=round(self._seconds, 3),
            attempts=self._attempts,
            steps_cached=build.steps_cached if build else None,
            steps_total=build.steps_total if build else None,
            saved_seconds=saved_seconds(self._seconds, seen),
        )


def _ended(seen: Seen, ref: str) -> bool:
    return ref in seen.builds and seen.builds[ref].outcome != ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
