"""Settings of the daemon: how buildkitd is run, and by which programs."""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from buildsvc.errors import EnvironmentUnfit
from buildsvc.setting import setting
from buildsvc.values import between, parse_path, parse_program, parse_size, parse_switch

_GROUP = "daemon"


@dataclass(frozen=True, kw_only=True)
class DaemonSettings:
    """Fields of the settings, and what follows from them alone."""

    max_used_space: int | None = setting(
        between(parse_size, "1MB"),
        None,
        "Limit of the daemon's local state; also bounds a generation. Default: 80% of the "
        "space free at start.",
        "SIZE",
        _GROUP,
    )
    buildkitd_config: Path | None = setting(
        parse_path,
        None,
        "buildkitd.toml to merge with the sidecar's own settings.",
        "FILE",
        _GROUP,
    )
    buildkitd: str = setting(
        parse_program, "buildkitd", "Program: name or path.", "PROGRAM", _GROUP
    )
    runc: str = setting(parse_program, "runc", "OCI runtime: name or path.", "PROGRAM", _GROUP)
    rootlesskit: str = setting(
        parse_program, "rootlesskit", "Program: name or path.", "PROGRAM", _GROUP
    )
    tools_dir: Path | None = setting(
        parse_path, None, "Directory to look for programs in before PATH.", "DIR", _GROUP
    )
    process_sandbox: bool = setting(
        parse_switch,
        "off",
        "Give RUN steps a /proc of their own; in a pod this needs procMount: Unmasked.",
        "on|off",
        _GROUP,
    )
    nofsync: bool = setting(
        parse_switch,
        "on",
        "Answer fsync in the daemon and in RUN steps without work: their disk is thrown away.",
        "on|off",
        _GROUP,
    )

    def program(self, name: str) -> Path:
        """Return the path of ``buildkitd``, ``runc``, ``rootlesskit`` or another program.

        A setting of that name may say another name or a path. Looked for in ``tools_dir``, then
        in PATH; raises EnvironmentUnfit when it is not there or may not be executed.
        """
        wanted = str(getattr(self, name, name))
        places = os.pathsep.join(
            [*([str(self.tools_dir)] if self.tools_dir else []), os.environ.get("PATH", os.defpath)]
        )
        found = shutil.which(wanted, path=places)
        if found is None:
            raise EnvironmentUnfit(
                f"{name} cannot be run",
                expected=f"a program {wanted} in {places}",
                found="none",
                advice=f"install it, or say where it is with --{name} or --tools-dir",
            )
        return Path(found).absolute()
