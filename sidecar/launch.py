"""The daemon's command line, environment and configuration."""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.buildkitconfig import DaemonConfig, merged_config, read_config, space_limit
from sidecar.commands import Command
from sidecar.environment import allowed
from sidecar.paths import EpochPaths
from sidecar.settings import Settings
from sidecar.tls import Certificates


class Launch:
    """Builds the commands from the settings."""

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], certificates: Certificates | None
    ) -> None:
        self._settings = settings
        self.environment = allowed(environ)
        self._certificates = certificates
        self.max_used_space = settings.max_used_space or space_limit(settings.root)

    def daemon(self, paths: EpochPaths) -> Command:
        """buildkitd, configured by the merged file alone."""
        return Command(
            (str(self._settings.program("buildkitd")), f"--config={paths.buildkit_config}"),
            self.environment,
        )

    def private(self, paths: EpochPaths) -> Command:
        """buildkitd that nobody but the sidecar can reach."""
        daemon = self.daemon(paths)
        address = f"--addr=unix://{paths.buildkit_socket}"
        return Command((*daemon.argv, address), daemon.environment)

    def write_config(self, paths: EpochPaths) -> None:
        """Write the merged buildkitd.toml.

        Raises:
            ConfigError: the user's file contradicts what the sidecar needs.
        """
        ours = DaemonConfig(
            root=paths.buildkit,
            addresses=["fd://", f"unix://{paths.buildkit_socket}"],
            snapshotter_socket=paths.snapshots_socket,
            runc=self._settings.program("runc"),
            max_used_space=self.max_used_space,
            process_sandbox=self._settings.process_sandbox,
            certificates=self._certificates,
        )
        file = self._settings.buildkitd_config
        text = merged_config(read_config(file), ours, str(file or ""))
        paths.buildkit_config.write_text(text)
