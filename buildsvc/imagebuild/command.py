"""``buildsvc image-build``: its command line, and what the step is put together of."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from buildsvc.commandline import Parser, add_settings, exit_code
from buildsvc.errors import BuildsvcError, CannotCreate
from buildsvc.imagebuild.credentials import (
    Credentials,
    GivenCredentials,
    shown_to,
    write_configuration,
)
from buildsvc.imagebuild.endpoint import EndpointFinder
from buildsvc.imagebuild.job import job_arguments, make_places
from buildsvc.imagebuild.losing import StatusJudge
from buildsvc.imagebuild.names import ImageNames, image_names
from buildsvc.imagebuild.registry import HttpRegistry, Registry
from buildsvc.imagebuild.results import writers
from buildsvc.imagebuild.runner import Buildctl
from buildsvc.imagebuild.settings import PASSWORD, SETTINGS, Settings, load_settings
from buildsvc.imagebuild.sidecarstatus import HttpStatus, NoStatus
from buildsvc.imagebuild.step import ImageBuild, Job
from buildsvc.imagebuild.verifying import NoVerifier, RegistryVerifier
from buildsvc.imagebuild.waiting import SidecarWaiter

ABOUT = """\
Builds an image on the sidecar beside this step, pushes it, checks that it is in the registry, and
writes digest and reference for the next steps."""

AFTER = f"""\
Every option is a flag (--build-arg) or a variable (BUILDSVC_IMAGE_BUILD_ARG); a flag wins. A list
is a flag given several times, or a variable with a value a line. The registry's password can be in
{PASSWORD}, and never on the command line.

exit codes: that of buildctl (0, 1), or of the step: 64 wrong usage, 66 a file of the build is
missing, 69 no sidecar or no buildctl, 73 a result cannot be written, 75 the registry does not
answer, 76 it has not what was pushed, 77 it refuses, 78 wrong options, 128 + N signal N"""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(argv: Sequence[str]) -> int:
    """Run the step and return its exit code."""
    try:
        return exit_code("image-build", lambda: _image_build(argv))
    except Exception:  # noqa: BLE001  Python would end with 1, as a build that failed does.
        traceback.print_exc()
        say("this is a defect of the step; please report it")
        return BuildsvcError.exit_code


def _image_build(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="buildsvc image-build",
        description=ABOUT,
        epilog=AFTER,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_settings(parser, SETTINGS)
    settings = load_settings(vars(parser.parse_args(argv)), os.environ)
    return asyncio.run(_until_told(settings, os.environ))


class Stop:
    """The signal that ends the step. Implements :class:`buildsvc.imagebuild.runner.Told`."""

    def __init__(self) -> None:
        self.signal = 0
        self._task: asyncio.Task[int] | None = None

    def stops(self, task: asyncio.Task[int]) -> None:
        """Have signals cancel the task from now on."""
        self._task = task
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop, number)

    def _stop(self, number: int) -> None:
        assert self._task is not None
        self.signal = number
        self._task.cancel()


async def _until_told(settings: Settings, environ: Mapping[str, str]) -> int:
    """Run the step; a signal ends it with 128 and its number, as shells say it."""
    stop = Stop()
    task = asyncio.ensure_future(run_step(settings, environ, stop))
    stop.stops(task)
    try:
        return await task
    except asyncio.CancelledError:
        if not stop.signal:
            raise
        say(f"ended by {signal.Signals(stop.signal).name}")
        return 128 + stop.signal


def say(text: str) -> None:
    """Show people a line, beside BuildKit's progress."""
    sys.stderr.write(f"image-build: {text}\n")
    sys.stderr.flush()


async def run_step(settings: Settings, environ: Mapping[str, str], stop: Stop) -> int:
    """Put the step together and run it; return its exit code. Raises BuildsvcError."""
    names = image_names(settings, environ)
    arguments = job_arguments(settings, names, environ)
    make_places(settings)
    with private_directory() as private:
        credentials = GivenCredentials(settings, environ)
        login = _Login(credentials, private, names, environ)
        status = NoStatus() if settings.status_url == "off" else HttpStatus(settings.status_url)
        buildctl = Buildctl(settings.buildctl, stop)
        verifies = settings.push and settings.verify
        step = ImageBuild(
            Job(arguments, names, settings.push, private),
            waiter=SidecarWaiter(
                EndpointFinder(settings), status, buildctl, login.environment,
                limit=settings.wait, say=say,
            ),
            login=login,
            buildctl=buildctl,
            judge=StatusJudge(status),
            status=status,
            verifier=_verifier(settings, names, credentials) if verifies else NoVerifier(),
            verifies=verifies,
            writers=writers(settings, environ),
            say=say,
        )  # fmt: skip
        return await step.run()


@contextmanager
def private_directory() -> Iterator[Path]:
    """Make a directory for credentials, which nobody else can read; it goes in the end.

    Raises CannotCreate.
    """
    try:
        directory = tempfile.TemporaryDirectory(prefix="buildsvc-image-")
    except OSError as error:
        raise CannotCreate(
            "there is no place for temporary files",
            expected="a directory that can be written to",
            found=error.strerror or "",
            advice="mount an emptyDir at /tmp, or set TMPDIR",
        ) from error
    with directory as path:
        yield Path(path)


def _verifier(
    settings: Settings, names: ImageNames | None, credentials: Credentials
) -> RegistryVerifier:
    async def registry() -> Registry:
        assert names is not None
        document = await credentials.document(names.host)
        return HttpRegistry(
            names.host,
            await shown_to(document, names.host),
            authority=settings.registry_ca,
            insecure=settings.registry_insecure,
        )

    return RegistryVerifier(registry, limit=settings.verify_timeout, say=say)


class _Login:
    """Buildctl's environment: ours, with credentials in a private directory."""

    def __init__(
        self,
        credentials: Credentials,
        private: Path,
        names: ImageNames | None,
        environ: Mapping[str, str],
    ) -> None:
        self._credentials = credentials
        self._directory = private / "docker"
        self._names = names
        kept = {name: value for name, value in environ.items() if name != PASSWORD}
        self.environment = {**kept, "DOCKER_CONFIG": str(self._directory)}

    async def refresh(self) -> dict[str, str]:
        """Read the credentials anew: a token may have ended, or a mounted secret changed."""
        document = await self._credentials.document(self._names.host if self._names else "")
        write_configuration(self._directory, document)
        return self.environment
