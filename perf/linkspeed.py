"""What a network between builders and services really does: round trips, uploads, downloads."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from perf.host import PerfError, environment, output
from perf.network import Network

_PINGS = 20
_BYTES = 64 << 20
_TRANSFERS = 3

#: Takes one upload and gives one download, as often as somebody connects.
_SERVE = """\
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            left = int(sys.argv[2])
            while left > 0 and (part := connection.recv(1 << 20)):
                left -= len(part)
            connection.sendall(bytes(1))
            connection.sendall(bytes(int(sys.argv[2])))
"""
#: In pieces as Go's copies have. Prints the seconds up and down.
_USE = """\
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    began, piece = time.monotonic(), bytes(1 << 15)
    left = int(sys.argv[3])
    while left > 0:
        connection.sendall(piece[:left])
        left -= len(piece)
    connection.recv(1)
    up, count = time.monotonic(), 0
    while part := connection.recv(1 << 20):
        count += len(part)
    assert count == int(sys.argv[3])
    print(up - began, time.monotonic() - up)
"""


@dataclass(frozen=True)
class Server:
    """What takes and gives bytes at the services' end."""

    made: Network
    port: str

    def transfer(self, between: Sequence[str] = ()) -> tuple[float, float]:
        """Return the Mbit/s of one upload and one download. Raises PerfError.

        ``between`` is what the builders' command begins with, such as a namespace of its own.
        """
        client = (sys.executable, "-c", _USE, self.made.address, self.port, str(_BYTES))
        said = output([*self.made.builders, *between, *client])
        up, down = (_BYTES * 8 / 1e6 / float(seconds) for seconds in said.splitlines()[-1].split())
        return up, down


@contextmanager
def serving(made: Network) -> Iterator[Server]:
    """Start it; it ends afterwards."""
    server = [*made.services, sys.executable, "-c", _SERVE, made.address, str(_BYTES)]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        try:
            yield Server(made, process.stdout.readline().strip())
        finally:
            process.terminate()


def measured(made: Network) -> dict[str, float]:
    """Return round trip in milliseconds, and Mbit/s to and from builders. Raises PerfError.

    Medians of three transfers: one alone may meet something else of the machine's.
    """
    with serving(made) as server:
        ups, downs = zip(*(server.transfer() for _ in range(_TRANSFERS)), strict=True)
    up, down = statistics.median(ups), statistics.median(downs)
    return {"round_trip_ms": _round_trip(made), "mbit": round(down, 1), "mbit_up": round(up, 1)}


def _round_trip(made: Network) -> float:
    said = output([*made.builders, "ping", "-c", str(_PINGS), "-i", "0.05", "-q", made.address])
    found = re.search(r"= [\d.]+/([\d.]+)/", said)
    if found is None:
        raise PerfError(f"ping said no round trip: {said}")
    return float(found[1])
