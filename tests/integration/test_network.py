"""The networks of the comparison are at most as fast as they say, and rootlesskit works in them."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from perf.host import output
from perf.linkspeed import measured
from perf.network import LINKS, Link, network
from sidecar.rootlesskit import slirp4netns
from tests.integration.commands import PATIENCE

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_a_link_is_no_better_than_it_says(link: Link) -> None:
    with network(link) as made:
        found = measured(made)
        assert found["mbit"] > 0
        if link.mbit:
            assert found["round_trip_ms"] >= link.round_trip_ms
            # A full bucket goes first.
            assert found["mbit"] <= 1.2 * link.mbit


def test_builders_have_a_namespace_of_their_own_inside() -> None:
    with network(LINKS["unshaped"]) as made:
        nested = ["rootlesskit", *slirp4netns(), "--copy-up=/etc"]
        said = output([*made.builders, *nested, "ip", "route", "get", made.address])
        assert "dev tap0" in said


def test_nothing_is_left() -> None:
    with network(LINKS["1gbit-1ms"]) as made:
        inside = {
            output([*enter, "readlink", "/proc/self/ns/net"])
            for enter in (made.builders, made.services)
        }
        assert len(inside) == 2
        assert inside <= _all_namespaces()
    # The kernel ends relay and sleeper when their parent has gone, which is what we waited for.
    until = time.monotonic() + PATIENCE
    while inside & _all_namespaces():
        assert time.monotonic() < until
        time.sleep(0.01)


def _all_namespaces() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.add(os.readlink(process / "ns/net"))
    return found
