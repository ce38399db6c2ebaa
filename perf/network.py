"""What lies between builders and what they talk to: a rate and a delay, without any privilege.

Two network namespaces in a user namespace of rootlesskit's: in the one builders run, with
slirp4netns to the outside, where they get packages; in the other one registry and stores. A veth
pair connects them, or a relay with a token bucket (tbf) at each end. Everything in it is root of
that user namespace, and a further rootlesskit works there as it does outside.
"""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from perf.host import REPOSITORY, PerfError, environment, program
from perf.relay import MTU
from sidecar.rootlesskit import slirp4netns

_MADE_WITHIN = 30.0

_BUILDERS, _SERVICES = "198.18.0.1", "198.18.0.2"
"""Of the range that RFC 2544 keeps for benchmarks."""

# $1 rate for tc, empty for none; $2 the delay each way in seconds; $3 Python; $4 bytes of a packet.
_MAKE = f"""\
set -eu
rm /etc/subuid /etc/subgid
echo root:1:65536 | tee /etc/subuid > /etc/subgid
ip link set lo up
own=$(readlink /proc/self/ns/net)
unshare --net setpriv --pdeathsig=KILL sleep infinity &
services=$!
until net=$(readlink /proc/$services/ns/net) && [ "$net" != "$own" ]; do kill -0 $services; done
there="nsenter --net --target=$services --"
if [ -z "$1" ]; then
  ip link add wan0 type veth peer name wan0 netns $services
else
  setpriv --pdeathsig=KILL "$3" -m perf.relay --name=wan0 --delay="$2" --enter=$services &
  relay=$!
  until $there ip link show wan0 >/dev/null 2>&1; do kill -0 $relay; sleep 0.02; done
  ip link set wan0 mtu "$4"
  $there ip link set wan0 mtu "$4"
  tc qdisc add dev wan0 root tbf rate "$1" burst 256kb latency 100ms
  $there tc qdisc add dev wan0 root tbf rate "$1" burst 256kb latency 100ms
fi
ip addr add {_BUILDERS}/30 dev wan0
ip link set wan0 up
$there ip addr add {_SERVICES}/30 dev wan0
$there ip link set lo up
$there ip link set wan0 up
echo $$ $services
exec cat
"""


@dataclass(frozen=True)
class Link:
    """A rate in Mbit/s, the same in both directions, and a round trip in milliseconds."""

    name: str
    mbit: int = 0
    round_trip_ms: float = 0.0


LINKS = {
    link.name: link
    for link in (
        Link("unshaped"),
        Link("1gbit-1ms", 1000, 1.0),
        Link("1gbit-20ms", 1000, 20.0),
        Link("200mbit-1ms", 200, 1.0),
        Link("200mbit-20ms", 200, 20.0),
    )
}


@dataclass(frozen=True)
class Network:
    """Both ends of a link, each as what a command begins with that is to run there."""

    builders: tuple[str, ...]
    services: tuple[str, ...]
    #: As ``services``, for a command that builders run.
    services_from_builders: tuple[str, ...]
    #: Where builders reach what listens at the other end.
    address: str = _SERVICES


@contextmanager
def network(link: Link) -> Iterator[Network]:
    """Make it; all that runs in it ends with it. Raises PerfError when it cannot be made."""
    command = [
        *(program("rootlesskit"), *slirp4netns(MTU), "--copy-up=/etc", "--copy-up=/run"),
        *("sh", "-c", _MAKE, "sh"),
        *(f"{link.mbit}mbit" if link.mbit else "", f"{link.round_trip_ms / 2000:g}"),
        *(sys.executable, str(MTU)),
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env=environment(), start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], _MADE_WITHIN)
            said = process.stdout.readline().split() if ready else []
            if len(said) != 2:
                raise PerfError(f"the network {link.name} cannot be made here")
            there = ("nsenter", "--net", f"--target={said[1]}", "--")
            yield Network(_enter(said[0]), _enter(said[1]), there)
        finally:
            # It waits for the end of its input.
            process.stdin.close()


def _enter(pid: str) -> tuple[str, ...]:
    options = ("--user", "--mount", "--net", "--preserve-credentials", f"--wd={REPOSITORY}")
    return ("nsenter", f"--target={pid}", *options, "--")
