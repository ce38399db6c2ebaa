"""Connections to one HTTP server; blocking, for threads, and ended from outside."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from buildsvc.errors import ConfigError, StoreRefused
from buildsvc.store.address import shown_address

if TYPE_CHECKING:
    import ssl

    from buildsvc.store.timeouts import HttpTimeouts

# Of 64 KiB to 1 MiB what cost least: smaller ones mean more calls, and pieces of 1 MiB cost the
# kernel markedly more to write to ext4.
_BUFFER = 512 << 10
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an address leads: the server, and the path of its objects."""

    address: str
    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, address: str) -> Origin:
        """Read ``http(s)://host[:port][/base]``; raises ``ConfigError``."""
        try:
            parts = urlsplit(address)
            usual = _PORTS[parts.scheme]
            port = usual if parts.port is None else parts.port
        except (ValueError, KeyError) as error:
            raise ConfigError(
                "not the address of an object server",
                expected="http(s)://host[:port][/base]",
                found=shown_address(address),
            ) from error
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        return cls(address, parts.scheme, parts.hostname or "", port, path)


class Call:
    """What one blocking exchange waits for, to be ended from the event loop.

    ``end`` shuts the connection down, at whatever stage it is: a thread in a system call on it
    returns at once. All methods are safe in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._handle: socket.socket | None = None

    def watch(self, handle: socket.socket) -> None:
        """From now on ``end`` shuts ``handle`` down. Raises if the call was ended already."""
        with self._lock:
            if self._ended:
                raise ConnectionAbortedError("nobody waits for the answer any more")
            self._handle = handle

    def release(self) -> bool:
        """Leave the connection alone from now on; whether it was left alone so far."""
        with self._lock:
            self._handle = None
            return not self._ended

    def end(self) -> None:
        """End the exchange, if it is still under way."""
        with self._lock:
            self._ended = True
            if self._handle is not None:
                # Not connected yet, or no more.
                with suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)


class Connection:
    """An established connection, and a buffer that lives as long."""

    def __init__(
        self, origin: Origin, sock: socket.socket, handle: socket.socket, idle: float
    ) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(idle)
        self.handle = handle
        self.sock = sock
        self.buffer = memoryview(bytearray(_BUFFER))
        self.http = HTTPConnection(origin.host, origin.port)
        # Of the Host header, which leaves the scheme's own port out.
        self.http.default_port = _PORTS[origin.scheme]
        self.http.sock = sock
        # It would connect past our limits, and past the call that can be ended.
        self.http.auto_open = 0

    def send(self, data: memoryview) -> None:
        """Send all of it; the socket's time-out holds for each step forward.

        Over TLS all of ``data`` is one step.
        """
        while data:
            data = data[self.sock.send(data) :]

    def close(self) -> None:
        """Close it; the other side sees it at once."""
        self.http.close()
        self.sock.close()
        self.handle.close()


class Dialer:
    """Makes connections to ``origin``."""

    def __init__(self, origin: Origin, timeouts: HttpTimeouts) -> None:
        self._origin = origin
        self._timeouts = timeouts
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def connect(self, call: Call) -> Connection:
        """A new connection, which ``call`` watches.

        Raises:
            StoreRefused: the server's certificate is not trusted.
            OSError: there is no connection.
        """
        origin = self._origin
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        # From here on: a resolver has limits of its own, and leaves time for its answer's use.
        deadline = time.monotonic() + self._timeouts.connect
        errors: list[OSError] = []
        for left, (family, kind, protocol, _, address) in zip(
            range(len(found), 0, -1), found, strict=True
        ):
            with ExitStack() as failing:
                try:
                    sock = failing.enter_context(socket.socket(family, kind, protocol))
                    # Of its own, so that no close, in whatever order, pulls the descriptor from
                    # under a shutdown: the number could be another file's by then.
                    handle = failing.enter_context(sock.dup())
                    failing.callback(call.release)
                    # Begun before it is watched: what is not connecting cannot be shut down.
                    sock.settimeout(0)
                    begun = sock.connect_ex(address)
                    call.watch(handle)
                    # An address that does not answer leaves time for those after it.
                    _wait(sock, begun, (deadline - time.monotonic()) / left)
                    sock.settimeout(max(0.001, deadline - time.monotonic()))
                    sock = failing.enter_context(self._secured(sock))
                    connection = Connection(origin, sock, handle, self._timeouts.idle)
                except OSError as error:
                    errors.append(error)
                else:
                    failing.pop_all()
                    return connection
        raise errors[-1]

    def _secured(self, sock: socket.socket) -> socket.socket:
        if self._origin.scheme != "https":
            return sock
        import ssl

        secured = self._context().wrap_socket(
            sock, server_hostname=self._origin.host, do_handshake_on_connect=False
        )
        try:
            secured.do_handshake()
        except BaseException as error:
            # It has taken the descriptor over.
            secured.close()
            ended = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            if not isinstance(error, ssl.SSLError) or ended:
                raise
            raise StoreRefused(
                f"no trusted connection to {self._origin.address}",
                found=str(error),
                advice="install the authority that signed the server's certificate",
            ) from error
        return secured

    def _context(self) -> ssl.SSLContext:
        import ssl

        with self._lock:
            # Reads the system's authorities: once, and not before it is needed.
            if self._tls is None:
                self._tls = ssl.create_default_context()
                self._tls.set_alpn_protocols(["http/1.1"])
            return self._tls


def _wait(sock: socket.socket, begun: int, timeout: float) -> None:
    """Wait for the end of a connect that ``connect_ex`` answered with ``begun``."""
    number = begun
    if begun == errno.EINPROGRESS:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        if not poll.poll(max(1, timeout * 1000)):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
