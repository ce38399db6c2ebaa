"""Times and sizes as people write them."""

from __future__ import annotations

import re

import pytest

from buildsvc.amounts import parse_count, parse_duration, parse_size, shown_bytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90m", 5400), ("1.5h", 5400), ("30d", 2_592_000)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("7B", 7), ("2kB", None), ("2KB", 2000), ("1.5GiB", 3 << 29), ("1TB", 10**12)],
)
def test_sizes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(ValueError, match=text):
            parse_size(text)
    else:
        assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1w", "1e3s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "30", "GB", "1iB", "-1B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        parse_size(text)


def test_counts() -> None:
    assert parse_count("2") == 2
    with pytest.raises(ValueError, match="0"):
        parse_count("0")


def test_for_people() -> None:
    assert [shown_bytes(10**n) for n in (0, 4, 8, 12)] == ["1 B", "10 kB", "100 MB", "1000.0 GB"]
