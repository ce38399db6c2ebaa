"""Makes addresses unreachable in this process's network namespace.

RUN steps share the namespace but not the capability to change its routes. An `unreachable` route
answers a connection at once with EHOSTUNREACH instead of letting it time out. Spoken over rtnetlink
itself, not through `ip`: an error is an errno, and there is no text to parse.

Source: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

METADATA = ("169.254.0.0/16", "100.100.100.200/32", "fd00:ec2::254/128")
"""Where clouds serve instance metadata, and with it credentials of the machine."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEWROUTE, _NLMSG_ERROR = 24, 2
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _UNREACHABLE = 254, 4, 0, 7
_RTA_DST = 1


def parse(cidrs: Sequence[str]) -> list[Network]:
    """The networks, without duplicates and what is inside another.

    Raises ValueError for what is not a network in CIDR notation, for host bits, and for a prefix
    of length 0, which would cut builds off from everything.
    """
    four: list[ipaddress.IPv4Network] = []
    six: list[ipaddress.IPv6Network] = []
    for cidr in cidrs:
        network = ipaddress.ip_network(cidr)
        if network.prefixlen == 0:
            raise ValueError(f"{cidr} is every address; name what is to be denied")
        if isinstance(network, ipaddress.IPv4Network):
            four.append(network)
        else:
            six.append(network)
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def deny(cidrs: Sequence[str]) -> None:
    """Adds an unreachable route for each network. Needs CAP_NET_ADMIN over the namespace.

    Raises ValueError as `parse`, and OSError naming the network that could not be denied: EEXIST
    for one that has a route already, as the namespace's own subnet does.
    """
    networks = parse(cidrs)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        for sequence, network in enumerate(networks, start=1):
            netlink.send(_message(network, sequence))
            error = _answer(netlink.recv(65536), sequence)
            if error and not (error == errno.EAFNOSUPPORT and network.version == 6):
                raise OSError(error, f"cannot deny {network}: {os.strerror(error)}")


def _message(network: Network, sequence: int) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    address = network.network_address.packed
    payload = struct.pack(
        "=BBBBBBBBI",
        family,
        network.prefixlen,
        0,
        0,
        _TABLE_MAIN,
        _PROTOCOL_STATIC,
        _SCOPE_UNIVERSE,
        _UNREACHABLE,
        0,
    )
    payload += struct.pack("=HH", 4 + len(address), _RTA_DST) + address
    flags = _REQUEST | _ACK | _CREATE | _EXCL
    return struct.pack("=IHHII", 16 + len(payload), _NEWROUTE, flags, sequence, 0) + payload


def _answer(data: bytes, sequence: int) -> int:
    """The errno in the kernel's acknowledgement, 0 for success."""
    _, kind, _, answered = struct.unpack_from("=IHHI", data)
    if kind != _NLMSG_ERROR or answered != sequence:
        raise OSError(errno.EPROTO, f"rtnetlink answered message type {kind}, not an error code")
    (code,) = struct.unpack_from("=i", data, 16)
    return -int(code)
