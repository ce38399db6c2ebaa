"""Carries IP packets between two network namespaces, later by the same time each way.

    python -m perf.relay --name wan0 --delay 0.0005 --enter PID

The kernels that this runs on have no netem. It makes a TUN device of that name in its own network
namespace and one in that of process PID, and ends with the first of them; addresses and rates are
for whoever started it to set. `perf.network` does.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

MTU = 65520
"""Bytes of a packet at most: some 2,000 packets a second are 1 Gbit/s."""
_TUN = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_AT_ONCE = 64

#: Packets with the time (monotonic) at which they are due, in that order.
_Way = deque[tuple[float, bytes]]


def open_tun(name: str) -> int:
    """Return the descriptor of a TUN device in this process' network namespace. Raises OSError."""
    device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(device, _TUNSETIFF, request)
    return device


def carry(one: int, other: int, delay: float) -> None:
    """Carry packets between two descriptors, ``delay`` seconds later each way, until one ends."""
    ways: list[tuple[int, int, _Way]] = [(one, other, _Way()), (other, one, _Way())]
    while True:
        due = [waiting[0][0] for _, _, waiting in ways if waiting]
        wait = max(min(due) - time.monotonic(), 0.0) if due else None
        readable, _, _ = select.select([one, other], [], [], wait)
        for source, target, waiting in ways:
            if source in readable and not _take(source, waiting, time.monotonic() + delay):
                return
            while waiting and waiting[0][0] <= time.monotonic():
                # Into a device that is not up, or a full one: a packet may be lost.
                with suppress(OSError):
                    os.write(target, waiting.popleft()[1])


def _take(source: int, waiting: _Way, due: float) -> bool:
    """Read what is there; False when nothing will be there any more."""
    with suppress(BlockingIOError):
        for _ in range(_AT_ONCE):
            packet = os.read(source, MTU)
            if not packet:
                return False
            waiting.append((due, packet))
    return True


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    relay = argparse.ArgumentParser(prog="relay", description=(__doc__ or "").split("\n")[0])
    relay.add_argument("--name", required=True, help="of the device, the same in both namespaces")
    relay.add_argument("--delay", required=True, type=float, help="seconds, each way")
    relay.add_argument("--enter", metavar="PID", help="whose network namespace is the other one")
    relay.add_argument("--device", type=int, help=argparse.SUPPRESS)
    options = relay.parse_args(argv)
    if options.device is None:
        _enter(options)
    carry(options.device, open_tun(options.name), options.delay)
    return 0


def _enter(options: argparse.Namespace) -> NoReturn:
    """Go on in the other namespace, the device of this one open."""
    # Not closed by what is executed, as the descriptor that it is a copy of.
    device = fcntl.fcntl(open_tun(options.name), fcntl.F_DUPFD, 3)
    enter = ["nsenter", "--net", f"--target={options.enter}", "--", sys.executable]
    again = ["-m", "perf.relay", f"--name={options.name}", f"--delay={options.delay}"]
    os.execvp(enter[0], [*enter, *again, f"--device={device}"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
