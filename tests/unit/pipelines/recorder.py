"""A program named ``buildsvc`` that notes how it was called, and the scripts that call it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildsvc.imagebuild.settings import Settings, load_settings

#: In shell, since many of these are started. Each argument, and each variable, ends in a zero byte.
_PROGRAM = """\
#!/bin/sh
printf '%s\\0' "$@" > '{log}.arguments'
env -0 > '{log}'
if [ -n "${{BUILDSVC_IMAGE_DOTENV:-}}" ]; then
  printf 'IMAGE_%s\\n' DIGEST=sha256:1 NAME=r/a:1 REFERENCE=r/a:1@sha256:1 \\
    > "$BUILDSVC_IMAGE_DOTENV"
fi
"""


def _words(path: Path) -> list[str]:
    text = os.fsdecode(path.read_bytes())
    path.unlink()
    return text.split("\0")[:-1]


@dataclass(frozen=True)
class Call:
    """Arguments without the program's name, and the variables that a pipeline's file has set."""

    arguments: list[str]
    variables: dict[str, str]

    @property
    def flags(self) -> dict[str, object]:
        """Values of ``--name=value`` by setting; none that the files use is a list."""
        pairs = (word.removeprefix("--").partition("=") for word in self.arguments[1:])
        return {name.replace("-", "_"): value for name, _, value in pairs}

    @property
    def settings(self) -> Settings:
        """What the step makes of the call. Raises ConfigError for what it does not understand."""
        assert self.arguments[0] == "image-build"
        return load_settings(self.flags, self.variables)


class Recorder:
    """Runs commands in an empty directory where ``buildsvc`` is the recorder."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "log"
        self.programs = directory / "programs"
        self.work = directory / "work"
        self.programs.mkdir()
        self.work.mkdir()
        program = self.programs / "buildsvc"
        program.write_text(_PROGRAM.format(log=self._log))
        program.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with the recorder in front."""
        return f"{self.programs}:{os.environ['PATH']}"

    def run(self, command: Sequence[str], variables: Mapping[str, str]) -> Call:
        """Run a command with these variables; nothing but the recorder may have run."""
        environ = {**variables, "PATH": self.path}
        subprocess.run(
            command, check=True, cwd=self.work, env=environ, stdin=subprocess.DEVNULL, timeout=60
        )
        return self.call()

    def call(self) -> Call:
        """Return the last call, and forget it. Fails where a text was run as a command."""
        assert not list(self.work.rglob("touched")), "a name was run as a command"
        arguments = _words(self._log.with_name("log.arguments"))
        pairs = (word.partition("=") for word in _words(self._log))
        return Call(arguments, {name: value for name, _, value in pairs})
