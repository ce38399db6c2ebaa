"""What a fresh pod and its peers have in common: a program that builds, watched and ended."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Self

from perf.build import Built, Job, build
from perf.host import PerfError, environment, program, remove_tree
from perf.watch import Memory, MemoryWatch, cpu_by_role, listens


class Daemon:
    """A process tree that answers BuildKit's API at ``address``; its files lie below ``base``.

    A context manager: left early it is ended at once, and its files are removed.
    """

    def __init__(self, base: Path, address: str) -> None:
        self.base = base
        self.address = address
        self.log = base / "log"
        #: When the process began: monotonic and Unix seconds.
        self.began = 0.0
        self.began_unix = 0.0
        #: Processor seconds of the tree during the last build, by role.
        self.build_cpu: dict[str, float] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: MemoryWatch | None = None
        #: Peaks of what it started, while it was watched.
        self.memory = Memory()

    def command(self) -> list[str]:
        """The command line that starts it."""
        raise NotImplementedError

    def client(self) -> list[str]:
        """``buildctl`` and how it reaches the daemon."""
        return [program("buildctl"), "--addr", self.address]

    def environment(self) -> Mapping[str, str]:
        """The environment that it starts in."""
        return environment()

    def start(self, *, watched: bool = True) -> None:
        """Start it and return at once; ``watched``: sample its memory."""
        self.base.mkdir(mode=0o700, parents=True)
        with self.log.open("wb") as log:
            command = self.command()
            self.began, self.began_unix = time.monotonic(), time.time()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment(), start_new_session=True,
            )  # fmt: skip
        if watched:
            self._watch = MemoryWatch(self._process.pid, self.memory)
            self._watch.__enter__()

    @property
    def pid(self) -> int:
        """The outermost process."""
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Raise PerfError with the log's end when it is not running."""
        if self._process is None or self._process.poll() is not None:
            status = "not started" if self._process is None else self._process.returncode
            raise PerfError(f"{type(self).__name__} ended ({status}):\n{self.log_end()}")

    def log_end(self, lines: int = 15) -> str:
        """Return the last lines of its log, without the frames of Go's stack traces."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(_without_frames(text.splitlines())[-lines:])

    def wait_answer(self, within: float = 60.0) -> float:
        """Wait until the API answers a client; return the seconds since the start.

        Raises PerfError when it does not.
        """
        command = [*self.client(), "--timeout=30", "debug", "workers"]
        while True:
            done = subprocess.run(command, capture_output=True, env=environment(), check=False)
            took = time.monotonic() - self.began
            if done.returncode == 0:
                return took
            self.check()
            if took > within:
                raise PerfError(f"no answer in {within:g} s: {done.stderr.decode()}")
            time.sleep(0.05)

    def build(self, job: Job, client: Sequence[str] = ()) -> Built:
        """Build and remember the processor time that it took. Raises PerfError.

        ``client`` is another one than its own.
        """
        before = cpu_by_role(self.pid)
        built = build(job, client or self.client(), self.base)
        after = cpu_by_role(self.pid)
        self.build_cpu = {name: round(after[name] - before.get(name, 0.0), 2) for name in after}
        return built

    @property
    def build_cpu_seconds(self) -> float:
        """Processor seconds of the whole tree during the last build."""
        return round(sum(self.build_cpu.values()), 2)

    def stop(self, within: float = 60.0) -> int:
        """Send SIGTERM and wait; return the exit status. Raises PerfError after ``within`` s."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            text = f"{type(self).__name__} ignored SIGTERM for {within:g} s:\n{self.log_end()}"
            raise PerfError(text) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._process is not None and self._process.poll() is None:
                self.interrupt()
        finally:
            if self._watch:
                self._watch.__exit__(None, None, None)
            remove_tree(self.base)

    def interrupt(self) -> None:
        """End it soon, by force if need be."""
        assert self._process is not None
        with suppress(PerfError):
            self.stop(15.0)
        self._process.kill()
        self._process.wait()


def bound_after(began: float, port: int, within: float = 5.0) -> float | None:
    """Wait until the port is listened on; return the seconds since ``began``, None for never."""
    while (took := time.monotonic() - began) < within:
        if listens(port, Path("/proc/net/tcp").read_text()):
            return took
        time.sleep(0.001)
    return None


class BoundWatch(threading.Thread):
    """Waits in the background until a port is listened on; ``seconds`` is None before."""

    def __init__(self, began: float, port: int) -> None:
        super().__init__(daemon=True)
        self.seconds: float | None = None
        self._began, self._port = began, port

    def run(self) -> None:
        """Wait."""
        self.seconds = bound_after(self._began, self._port)


def arguments(flags: Mapping[str, object]) -> Sequence[str]:
    """Return flags as a command line has them: ``{"listen": 1}`` → ``["--listen=1"]``."""
    return [f"--{name}={value}" for name, value in flags.items()]


def _without_frames(lines: Sequence[str]) -> list[str]:
    """Leave out a function's name and the indented place below it: what it died of is above."""
    return [
        line
        for line, below in zip_longest(lines, lines[1:], fillvalue="")
        if not line.startswith("\t") and not below.startswith("\t")
    ]
