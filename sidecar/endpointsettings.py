"""Settings of the endpoint: where clients, and RUN steps, meet the daemon."""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from buildsvc.setting import Setting, setting
from buildsvc.values import one_of, parse_path, parse_switch, several
from sidecar.endpoint import DEFAULT_LISTEN, Address, parse_address
from sidecar.values import parse_listen, parse_network

_GROUP = "endpoint"


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Fields of the settings, and what follows from them alone."""

    # Required: its default depends on the environment.
    root: Path = field(
        metadata={
            "setting": Setting(
                parse_path,
                "",
                "Directory for everything local. Default: $XDG_DATA_HOME/buildsvc.",
                "DIR",
                _GROUP,
            )
        }
    )
    listen: str = setting(
        parse_listen,
        DEFAULT_LISTEN,
        "Where buildctl connects to; port 0 chooses one.",
        "HOST:PORT",
        _GROUP,
    )
    endpoint_file: Path | None = setting(
        parse_path,
        None,
        "File that the address and the certificates' paths are written to, as JSON. "
        "Default: ROOT/endpoint.json.",
        "FILE",
        _GROUP,
    )
    tls: Literal["auto", "on", "off"] = setting(
        one_of("auto", "on", "off"),
        "auto",
        "Mutual TLS with certificates made at start. auto: only where RUN steps could reach "
        "the endpoint otherwise.",
        "auto|on|off",
        _GROUP,
    )
    tls_client_dir: Path | None = setting(
        parse_path,
        None,
        "Directory for the client's ca.pem, cert.pem and key.pem, such as an emptyDir shared "
        "with the image-build step. Default: ROOT/tls/client.",
        "DIR",
        _GROUP,
    )
    allow_reachable_endpoint: bool = setting(
        parse_switch,
        "off",
        "Accept a plain TCP endpoint that RUN steps of a build can reach.",
        "on|off",
        _GROUP,
    )
    network: Literal["auto", "slirp4netns", "host"] = setting(
        one_of("auto", "slirp4netns", "host"),
        "auto",
        "Network of RUN steps. auto: a namespace of their own where /dev/net/tun works, "
        "else the host's.",
        "auto|slirp4netns|host",
        _GROUP,
    )
    deny_cidr: tuple[str, ...] = setting(
        several(parse_network),
        (),
        "Network that RUN steps in their own namespace cannot reach, besides the cloud "
        "metadata addresses. May be repeated.",
        "CIDR",
        _GROUP,
    )

    def contradiction(self) -> str:
        """Say which settings cannot go together; empty when all can."""
        if self.tls == "off" and not self.allow_reachable_endpoint and not self.address.loopback:
            return (
                f"tls: off on {self.listen} lets RUN steps drive the daemon; use tls: auto, listen "
                "on 127.0.0.1, or say allow_reachable_endpoint: on"
            )
        return ""

    @property
    def address(self) -> Address:
        """Where to listen, parsed."""
        return parse_address(self.listen)

    @property
    def endpoint_path(self) -> Path:
        """The endpoint file, default applied."""
        return self.endpoint_file or self.root / "endpoint.json"

    @property
    def tls_client_path(self) -> Path:
        """The directory of the client's certificates, default applied."""
        return self.tls_client_dir or self.root / "tls" / "client"
