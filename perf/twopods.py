"""The story of two pods: a cold build, its cache, and a rebuild elsewhere, beside a warm daemon."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf.build import Built
from perf.generation import newest
from perf.host import PerfError, stored_bytes
from perf.imageprogram import command_of, run_program
from perf.peer import StockDaemon
from perf.pod import Pod, PodOptions, fetched, publication_end
from perf.project import Project
from perf.services import Registry, object_server, push_base, registry

KEY = "run"


@dataclass(frozen=True)
class Wanted:
    """What to show. ``project`` makes the working copy once the base image's name is known;
    ``needs_base``: whether it is built on one;
    ``program`` is what to run in the image, empty for the image's own, None for nothing.
    """

    project: Callable[[Path, str], Project]
    scratch: Path
    needs_base: bool = True
    head_start: float = 10.0
    program: list[str] | None = field(default_factory=list)


class Story:
    """Runs it step by step; ``say`` prints one line of plain text."""

    def __init__(self, wanted: Wanted, say: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._say = say
        self._began = time.monotonic()
        self._store = wanted.scratch / "store"
        self.result: dict[str, Any] = {"head_start_seconds": wanted.head_start, "steps": {}}

    @contextmanager
    def _step(self, text: str) -> Iterator[None]:
        began = time.monotonic()
        self._say(f"[{began - self._began:6.1f} s] {text} …")
        yield
        took = time.monotonic() - began
        self.result["steps"][text] = round(took, 2)
        self._say(f"             done in {took:.1f} s")

    def tell(self) -> dict[str, Any]:
        """Run everything and return the figures. Raises PerfError; cleans up in any case."""
        scratch = self._wanted.scratch
        with ExitStack() as stack:
            with self._step("starting a registry and an object server"):
                images = stack.enter_context(registry(scratch / "registry"))
                config = images.config(scratch / "buildkitd.toml")
                log = scratch / "objectserver.log"
                url = stack.enter_context(object_server(self._store, log))
            with self._step("starting stock buildkitd, which stays up"):
                warm = stack.enter_context(StockDaemon(scratch / "warm", config))
                warm.start(watched=False)
                warm.wait_answer()
            base = ""
            if self._wanted.needs_base:
                with self._step("pushing a Debian base image"):
                    base = push_base(warm.address, images.host)
            project = self._wanted.project(scratch, base)
            options = PodOptions(url, KEY, config)
            self._cold(project, images, Pod(scratch / "pod1", options))
            with self._step(f"the stock daemon builds {project.name}, cold, to become warm"):
                before = warm.build(project.job(f"{images.host}/warm/{project.name}:latest"))
            self.result["stock_cold"] = before.shown()
            with self._step(f"changing one line: {project.change.file}"):
                project.revise(1)
            built = self._second(project, images, Pod(scratch / "pod2", options))
            with self._step("the same change on the stock daemon that stayed up"):
                again = warm.build(project.job(f"{images.host}/warm/{project.name}:latest"))
            self.result["warm"] = again.shown()
            warm.interrupt()
            if self._wanted.program is not None:
                self._prove(project, images, config, built)
        return self.result

    def _cold(self, project: Project, images: Registry, pod: Pod) -> None:
        with pod:
            with self._step(f"pod 1 builds {project.name}: no cache, empty disk"):
                pod.start()
                pod.wait_ready()
                built = pod.build(project.job(f"{images.host}/pod/{project.name}:latest"))
            with self._step("pod 1 publishes its cache, after the build step has ended"):
                status = pod.wait_published(built.ended_unix, 600)
                self._end(pod)
            generation = newest(self._store, KEY)
            self.result["pod1"] = {
                **built.shown(),
                "published_after_seconds": _published_after(status, built),
                "generation": generation.number,
                "stored_bytes": stored_bytes(self._store),
            }

    def _second(self, project: Project, images: Registry, pod: Pod) -> Built:
        before = stored_bytes(self._store)
        with pod:
            with self._step(f"pod 2 starts: empty disk, {self._wanted.head_start:g} s head start"):
                pod.start()
                pod.wait_ready()
                time.sleep(max(pod.began + self._wanted.head_start - time.monotonic(), 0))
            with self._step("pod 2 builds the changed project"):
                built = pod.build(project.job(f"{images.host}/pod/{project.name}:latest"))
            with self._step("pod 2 publishes"):
                status = pod.wait_published(built.ended_unix)
                self._end(pod)
        if status["restored"] is None:
            raise PerfError(f"pod 2 started cold: {status['cold_reason']}")
        generation = newest(self._store, KEY)
        parts = fetched(status, generation.trace)
        self.result["pod2"] = {
            **built.shown(),
            "published_after_seconds": _published_after(status, built),
            "generation": generation.number,
            "stored_bytes": stored_bytes(self._store) - before,
            "demand_bytes": parts.demand,
            "prefetched_bytes": parts.prefetch,
            "never_needed_bytes": parts.never_needed,
            "objects": status["objects"],
        }
        return built

    def _end(self, pod: Pod) -> None:
        status = pod.stop(600)
        if status:
            raise PerfError(f"the sidecar exited with {status}\n{pod.log_end()}")

    def _prove(self, project: Project, images: Registry, config: Path, built: Built) -> None:
        repository = f"pod/{project.name}"
        command = self._wanted.program or command_of(images, repository, built.digest)
        scratch = self._wanted.scratch
        with self._step("an empty stock daemon pulls pod 2's image and runs its program"):
            said = run_program(
                scratch / "proof", config, f"{images.host}/{repository}@{built.digest}",
                command, scratch / "proof-context",
            )  # fmt: skip
        self.result["program"] = {"command": command, "output": said}


def _published_after(status: dict[str, Any], built: Built) -> float:
    return round(publication_end(status) - built.ended_unix, 3)
