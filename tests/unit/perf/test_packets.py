"""The command line of the measurement of packets, and what it makes of rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import pytest

from perf import packets
from perf.host import PerfError
from perf.network import Link, Network

_MADE = Network((), (), ())


def test_medians_of_rounds_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    class Counted:
        def transfer(self, between: Sequence[str]) -> tuple[float, float]:
            asked.append(next((word for word in between if word.startswith("--mtu=")), "direct"))
            return len(asked) * 10.0, 1000.0

    @contextmanager
    def network(_: Link) -> Iterator[Network]:
        yield _MADE

    monkeypatch.setattr(packets, "network", network)
    monkeypatch.setattr(packets, "serving", lambda _: nullcontext(Counted()))
    monkeypatch.setattr(packets, "program", str)
    assert packets.main(["--rounds=3", "0", "500"]) == 0
    assert asked == ["direct", "--mtu=500"] * 3
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| no slirp4netns | 30 | 1000 |",
        "| 500 bytes | 40 | 1000 |",
    ]


def test_a_network_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def network(_: Link) -> Iterator[Network]:
        raise PerfError("there is no rootlesskit")

    monkeypatch.setattr(packets, "network", network)
    assert packets.main([]) == 2
    assert "there is no rootlesskit" in capsys.readouterr().err


def test_no_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        packets.main(["--rounds=0"])
    assert "at least 1" in capsys.readouterr().err
