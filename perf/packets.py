"""How quickly slirp4netns carries uploads and downloads, by the size of its packets.

    python -m perf.packets [--network NAME] [--rounds N] [MTU]…

Between two ends of a network as the comparison has it (`perf.network`), and beside that without
slirp4netns between. Sizes take turns; medians of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

from perf.host import PerfError, program
from perf.linkspeed import serving
from perf.network import LINKS, Network, network
from sidecar.rootlesskit import MTU, slirp4netns

DIRECT = 0
"""Stands for no slirp4netns."""
SIZES = (DIRECT, 65_520, 32_000, MTU, 9_000, 4_000, 1_500)


def measured(made: Network, sizes: Sequence[int], rounds: int) -> list[tuple[float, float]]:
    """Return the medians of up and down by size, in Mbit/s. Raises PerfError."""
    found: list[list[tuple[float, float]]] = [[] for _ in sizes]
    with serving(made) as server:
        for _ in range(rounds):
            for size, values in zip(sizes, found, strict=True):
                values.append(server.transfer(_between(size)))
    ways = ([statistics.median(way) for way in zip(*values, strict=True)] for values in found)
    return [(up, down) for up, down in ways]


def _between(size: int) -> tuple[str, ...]:
    if size == DIRECT:
        return ()
    return (program("rootlesskit"), *slirp4netns(size), "--copy-up=/etc")


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
