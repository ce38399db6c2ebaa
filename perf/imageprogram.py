"""Runs a pushed image's program, to prove that the image works."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from perf.build import Job
from perf.host import PerfError
from perf.peer import StockDaemon
from perf.services import Registry


def command_of(registry: Registry, repository: str, digest: str) -> list[str]:
    """Return an image's entry point and arguments. Raises PerfError when it has none."""
    config = registry.image_config(repository, digest).get("config", {})
    command = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
    if not command:
        raise PerfError(f"the image {repository}@{digest} names no program to run")
    return [str(word) for word in command]


def run_program(
    base: Path, config: Path, image: str, command: Sequence[str], arguments: Path
) -> str:
    """Pull an image into an empty stock daemon, run a program in it and return its output.

    A RUN step of an image that is thrown away: the real runtime, the image's own environment,
    user and working directory, and no shell. ``arguments`` is a directory for its Dockerfile.
    Raises PerfError when the program fails.
    """
    arguments.mkdir()
    file = arguments / "Dockerfile"
    file.write_text(f"FROM {image}\nRUN --network=none {json.dumps(list(command))}\n")
    with StockDaemon(base, config) as daemon:
        daemon.start(watched=False)
        daemon.wait_answer()
        built = daemon.build(Job(arguments, file))
        return built.progress.output.decode(errors="replace").strip()
