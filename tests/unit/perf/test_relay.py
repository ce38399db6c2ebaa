"""The relay: what goes in comes out at the other end, in order, and no earlier than it may."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from perf.relay import carry

_DELAY = 0.02


@contextmanager
def relay() -> Iterator[tuple[socket.socket, socket.socket]]:
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (here, one), (there, other) = pairs
    for end in (one, other):
        end.settimeout(0)
    thread = threading.Thread(target=carry, args=(one.fileno(), other.fileno(), _DELAY))
    thread.start()
    try:
        yield here, there
    finally:
        here.close()
        thread.join(10)
        for end in (there, one, other):
            end.close()
    assert not thread.is_alive(), "a relay goes on although one of its ends has gone"


def test_packets_come_in_order_and_not_too_early() -> None:
    with relay() as (here, there):
        for _ in range(3):
            packets = [os.urandom(size) for size in (1, 1500, 60_000, 7)]
            began = time.monotonic()
            for packet in packets:
                here.send(packet)
            assert [there.recv(1 << 16) for _ in packets] == packets
            assert time.monotonic() - began >= _DELAY


def test_each_way_has_its_own_delay() -> None:
    with relay() as (here, there):
        began = time.monotonic()
        here.send(b"ping")
        there.send(b"pong")
        assert (there.recv(10), here.recv(10)) == (b"ping", b"pong")
        assert time.monotonic() - began >= _DELAY
        began = time.monotonic()
        here.send(b"ping")
        there.send(there.recv(10))
        assert here.recv(10) == b"ping"
        assert time.monotonic() - began >= 2 * _DELAY
