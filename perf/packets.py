"""How quickly slirp4netns carries uploads and downloads, by the size of its packets.

    python -m perf.packets [--network NAME] [--rounds N] [MTU]…

Between two ends of a network as the comparison has it (`perf.network`), and beside that without
slirp4netns between. Sizes take turns; medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence

from perf.host import PerfError, environment, output, program
from perf.network import LINKS, Network, network
from sidecar.rootlesskit import MTU

DIRECT = 0
"""Stands for no slirp4netns."""
SIZES = (DIRECT, 65_520, 32_000, MTU, 9_000, 4_000, 1_500)
_BYTES = 60_000_000

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


def transfer(made: Network, port: str, size: int) -> tuple[float, float]:
    """Return the Mbit/s of one upload and one download. Raises PerfError."""
    between: tuple[str, ...] = ()
    if size != DIRECT:
        between = (
            *(program("rootlesskit"), "--net=slirp4netns", f"--mtu={size}"),
            *("--disable-host-loopback", "--copy-up=/etc"),
        )
    client = (sys.executable, "-c", _USE, made.address, port, str(_BYTES))
    said = output([*made.builders, *between, *client])
    up, down = (_BYTES * 8 / 1e6 / float(seconds) for seconds in said.splitlines()[-1].split())
    return up, down


def measured(made: Network, sizes: Sequence[int], rounds: int) -> list[tuple[float, float]]:
    """Return the medians of up and down by size, in Mbit/s. Raises PerfError."""
    server = [*made.services, sys.executable, "-c", _SERVE, made.address, str(_BYTES)]
    found: list[list[tuple[float, float]]] = [[] for _ in sizes]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            for _ in range(rounds):
                for size, values in zip(sizes, found, strict=True):
                    values.append(transfer(made, port, size))
        finally:
            process.terminate()
    ways = ([statistics.median(way) for way in zip(*values, strict=True)] for values in found)
    return [(up, down) for up, down in ways]


def main(argv: Sequence[str]) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(prog="perf.packets", description=__doc__)
    parser.add_argument("--network", choices=tuple(LINKS), default="1gbit-1ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("sizes", metavar="MTU", type=int, nargs="*", default=SIZES)
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds is at least 1, not {options.rounds}")
    try:
        with network(LINKS[options.network]) as made:
            found = measured(made, options.sizes, options.rounds)
    except PerfError as error:
        print(f"perf.packets: error: {error}", file=sys.stderr)
        return 2
    print("| packets of | up, Mbit/s | down, Mbit/s |\n|---|---|---|")
    for size, (up, down) in zip(options.sizes, found, strict=True):
        name = f"{size} bytes" if size else "no slirp4netns"
        print(f"| {name} | {up:.0f} | {down:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
