"""The machine or pod that is looked at, as the kernel's files show it."""

from __future__ import annotations

import os
import platform
import pwd
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: What maps all ids to themselves: the initial user namespace.
_ALL = [0, 0, 4294967295]


def _user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return ""


@dataclass(frozen=True)
class Place:
    """``files`` is the root directory that files are read below; ``data`` that of the sidecar.

    ``user`` is the name of ``uid``, "" where it has none.
    """

    files: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    uid: int = field(default_factory=os.getuid)
    user: str = field(default_factory=_user)
    release: str = field(default_factory=platform.release)
    data: Path = Path("/var/lib/buildsvc")

    def text(self, path: str) -> str | None:
        """Return what a file says, without white space around it; None when it cannot be read."""
        try:
            content = (self.files / path.lstrip("/")).read_bytes()
        except OSError:
            return None
        return content.decode(errors="replace").strip().strip("\0")

    def number(self, path: str) -> int | None:
        """Return the number in a file; None for another text, such as max."""
        text = self.text(path) or ""
        return int(text) if text.lstrip("-").isdecimal() else None

    def status(self, name: str) -> str:
        """Return a field of this process' status; "" where the kernel has none."""
        for line in (self.text("/proc/self/status") or "").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return value.strip()
        return ""

    def ids(self, kind: str = "uid") -> list[tuple[int, int]]:
        """Return the ids that exist here: the first and how many, by range."""
        lines = (self.text(f"/proc/self/{kind}_map") or "").splitlines()
        ranges = [[int(word) for word in line.split()] for line in lines]
        return [(first, count) for first, _, count in ranges]

    @property
    def host_users(self) -> bool:
        """Whether uids here are those of the host."""
        return [int(word) for word in (self.text("/proc/self/uid_map") or "").split()] == _ALL

    @property
    def pod(self) -> bool:
        """Whether this is a container of a pod."""
        return "KUBERNETES_SERVICE_HOST" in self.environ

    def program(self, name: str) -> str | None:
        """Return a program's path: looked for as the sidecar does."""
        wanted = self.environ.get(f"BUILDSVC_{name.upper()}") or name
        places = [self.environ.get("BUILDSVC_TOOLS_DIR", ""), self.environ.get("PATH", os.defpath)]
        return shutil.which(wanted, path=os.pathsep.join(place for place in places if place))
