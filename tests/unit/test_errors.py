"""The tree of errors."""

from __future__ import annotations

import pickle

import pytest

from buildsvc import errors

CODES = {
    "BuildsvcError": 70, "UsageError": 64, "NotPublished": 66, "ConfigError": 78,
    "EnvironmentUnfit": 69, "RootInUse": 75, "CannotCreate": 73, "StoreError": 74,
    "ObjectNotFound": 74, "ObjectExists": 74, "ShortObject": 74, "InvalidName": 74,
    "StoreUnavailable": 75, "StoreRefused": 77, "UnreadableObject": 77, "CacheError": 65,
    "CorruptObject": 65, "UnsupportedFormat": 65, "KeyMismatch": 65, "UntrustedHead": 65,
    "DisownedHead": 65, "HeadConflict": 75,
}  # fmt: skip


def _classes() -> dict[str, type[errors.BuildsvcError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.BuildsvcError)
    }


def test_exit_codes() -> None:
    assert {name: kind.exit_code for name, kind in _classes().items()} == CODES


@pytest.mark.parametrize("name", CODES)
def test_they_cross_process_boundaries_whole(name: str) -> None:
    error = _classes()[name]("broken", expected="a", found="b", advice="c")
    assert str(error) == "broken; expected: a; found: b; what to do: c"
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_how_long_a_store_wants_to_be_left_alone_crosses_too() -> None:
    error = errors.StoreUnavailable("busy", after=7.5)
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, errors.StoreUnavailable)
    assert copy.after == 7.5
