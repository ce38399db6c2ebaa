from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from sidecar.agent import routes
from tests.unit.agent.namespaces import CLONE_NEWNET, CLONE_NEWUSER, run_in

if TYPE_CHECKING:
    from collections.abc import Callable


def parsed(*cidrs: str) -> list[str]:
    return [str(network) for network in routes.parse(cidrs)]


def test_networks_inside_others_are_merged() -> None:
    assert parsed("10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "fd00::/8", "fd00:ec2::254/128") == [
        "10.0.0.0/8",
        "fd00::/8",
    ]
    assert parsed("192.0.2.1") == ["192.0.2.1/32"]
    assert len(parsed(*routes.METADATA)) == 3


@pytest.mark.parametrize(
    "cidr", ["0.0.0.0/0", "::/0", "10.0.0.1/8", "10.0.0.0/33", "metadata", "", "1.2.3/24"]
)
def test_what_is_no_network_is_refused(cidr: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        routes.parse([cidr])


def loopback_up() -> None:
    """Without an interface that is up, IPv6 has no source address to fail from."""
    set_flags, up = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", b"lo", up))


def in_new_network(check: Callable[[], None]) -> None:
    """Runs it in a child with an empty network namespace of its own."""

    def check_there() -> None:
        loopback_up()
        check()

    run_in(CLONE_NEWUSER | CLONE_NEWNET, check_there)


def reach(family: socket.AddressFamily, address: str) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex((address, 80))


def test_denied_addresses_are_unreachable_and_others_are_not() -> None:
    def check() -> None:
        # An empty namespace has no route at all, which is another error.
        assert reach(socket.AF_INET, "169.254.169.254") == errno.ENETUNREACH
        routes.deny([*routes.METADATA, "198.51.100.0/24"])
        assert reach(socket.AF_INET, "169.254.169.254") == errno.EHOSTUNREACH
        assert reach(socket.AF_INET, "100.100.100.200") == errno.EHOSTUNREACH
        assert reach(socket.AF_INET, "198.51.100.77") == errno.EHOSTUNREACH
        assert reach(socket.AF_INET6, "fd00:ec2::254") == errno.EHOSTUNREACH
        assert reach(socket.AF_INET, "100.100.100.201") == errno.ENETUNREACH
        assert reach(socket.AF_INET6, "fd00:ec2::255") == errno.ENETUNREACH

    in_new_network(check)


def test_an_error_names_the_network() -> None:
    def check() -> None:
        routes.deny(["192.0.2.0/24"])
        with pytest.raises(FileExistsError, match=r"192\.0\.2\.0/24"):
            routes.deny(["192.0.2.0/24"])

    in_new_network(check)
