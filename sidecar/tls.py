"""Whether the endpoint needs mutual TLS, and the files that it then has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildsvc.errors import ConfigError
from sidecar.settings import Settings


@dataclass(frozen=True)
class ClientFiles:
    """What a client needs: the names are those that ``buildctl --tlsdir`` looks for."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate, to know the server by."""
        return self.directory / "ca.pem"

    @property
    def cert(self) -> Path:
        """The client's certificate."""
        return self.directory / "cert.pem"

    @property
    def key(self) -> Path:
        """The client's private key."""
        return self.directory / "key.pem"


@dataclass(frozen=True)
class Certificates:
    """The server's files, for buildkitd's configuration, and the client's."""

    ca: Path
    cert: Path
    key: Path
    client: ClientFiles


def needs_tls(settings: Settings, *, isolated: bool) -> bool:
    """Return whether to serve mutual TLS.

    ``isolated`` says that RUN steps have a network namespace without this one's loopback. They
    still reach any other address of the pod. Raises ConfigError when TLS is switched off where
    RUN steps reach the endpoint, unless that is allowed.
    """
    reachable = not (isolated and settings.address.loopback)
    if settings.tls != "off":
        return settings.tls == "on" or (reachable and not settings.allow_reachable_endpoint)
    if reachable and not settings.allow_reachable_endpoint:
        raise ConfigError(
            f"RUN steps of a build could drive the daemon through {settings.listen}",
            expected="an endpoint out of their reach, or TLS",
            found=f"tls off ({settings.origin('tls')}), "
            + (
                "an address that is not loopback" if isolated else "RUN steps on the host's network"
            ),
            advice="set --tls auto, or --allow-reachable-endpoint if every build is trusted",
        )
    return False
