"""The TCP endpoint: bound before anything that takes long to import.

A client that comes early then waits in the backlog instead of being refused. This module
imports nothing heavy, and so does :mod:`sidecar.__main__` until the socket is bound.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from buildsvc.errors import EnvironmentUnfit

DEFAULT_LISTEN = "127.0.0.1:1234"

# Clients that wait for the daemon are queued by the kernel; somaxconn caps it further.
BACKLOG = 1024


@dataclass(frozen=True)
class Address:
    """A numeric IP address and a TCP port; port 0 lets the kernel choose."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """The address family that the host is written in."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def loopback(self) -> bool:
        """Whether only processes of this network namespace can reach the address."""
        return self.host == "::1" or self.host.startswith("127.")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parse ``host:port``, ``[v6]:port`` or either with ``tcp://`` before it.

    The host is a numeric address or ``localhost``: a name server has no say in where the
    endpoint listens, and nobody waits for one. Raises ValueError with a readable text.
    """
    host, colon, port = text.strip().removeprefix("tcp://").rpartition(":")
    wrong = f"{text!r} is not an address; write 127.0.0.1:1234, [::1]:1234 or port 0 for any port"
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(wrong)
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    elif host == "localhost":
        host = "127.0.0.1"
    family = socket.AF_INET6 if bracketed else socket.AF_INET
    try:
        # Also gives one spelling to equal addresses.
        host = socket.inet_ntop(family, socket.inet_pton(family, host))
    except (OSError, ValueError):
        raise ValueError(wrong) from None
    return Address(host, int(port))


def prescan(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """Find where to listen without parsing settings: flag, environment, file, default.

    A hint only: :func:`settle` corrects it once the settings are known, so what cannot be
    read here (a missing file, unusual YAML) is left for the settings to complain about.
    """
    listen = _flag(argv, "--listen") or environ.get("BUILDSVC_LISTEN")
    if listen:
        return listen
    config = _flag(argv, "--config") or environ.get("BUILDSVC_CONFIG")
    return (_from_file(config) if config else None) or DEFAULT_LISTEN


def _flag(argv: Sequence[str], name: str) -> str | None:
    """Return the last value of a flag in either spelling."""
    found = None
    for position, word in enumerate(argv):
        if word.startswith(name + "="):
            found = word[len(name) + 1 :]
        elif word == name and position + 1 < len(argv):
            found = argv[position + 1]
    return found


def _from_file(path: str) -> str | None:
    """Return the value of a plain top-level ``listen:`` line of a YAML file."""
    try:
        # pathlib would take longer to import than everything else here.
        with open(path, encoding="utf-8") as file:
            for line in file:
                key, colon, value = line.partition(":")
                if colon and key == "listen":
                    return value.split(" #")[0].strip().strip("'\"")
    except (OSError, UnicodeDecodeError):
        return None
    return None


def bind(address: Address) -> socket.socket:
    """Bind and listen; the socket is blocking and close-on-exec.

    Raises EnvironmentUnfit when the port is taken or may not be used.
    """
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        # A predecessor's connections in TIME_WAIT must not keep the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family is socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _refusal(address, error) from error
    return listener


def _refusal(address: Address, error: OSError) -> EnvironmentUnfit:
    if error.errno == errno.EADDRINUSE:
        found, advice = "another process listens there", "stop it, or choose a port with --listen"
    elif error.errno == errno.EACCES:
        found, advice = "no permission", "choose a port above 1023 with --listen"
    elif error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        found, advice = "no such address on this machine", "choose another with --listen"
    else:
        found, advice = error.strerror or str(error), "choose another address with --listen"
    return EnvironmentUnfit(
        f"cannot listen on {address}", expected="a free address", found=found, advice=advice
    )


def bound_address(listener: socket.socket) -> Address:
    """Return where the socket really listens, with the port that the kernel chose."""
    name = listener.getsockname()
    return Address(name[0], name[1])


@dataclass(frozen=True)
class EarlyBind:
    """What was bound before the settings were parsed: the text and its socket."""

    listen: str
    listener: socket.socket


def bind_early(argv: Sequence[str], environ: Mapping[str, str]) -> EarlyBind | None:
    """Bind what :func:`prescan` found; None when it is no address, for the settings to report.

    Raises EnvironmentUnfit, as :func:`bind` does.
    """
    listen = prescan(argv, environ)
    try:
        address = parse_address(listen)
    except ValueError:
        return None
    return EarlyBind(listen, bind(address))


def settle(early: EarlyBind | None, wanted: Address) -> socket.socket:
    """Return the listener for the address in the settings, keeping the early one if it fits.

    Raises EnvironmentUnfit, as :func:`bind` does.
    """
    if early is not None:
        if parse_address(early.listen) == wanted:
            return early.listener
        early.listener.close()
    return bind(wanted)
