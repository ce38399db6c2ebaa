"""Which generations are kept: the newest ones, within limits, and what may be in use."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from buildsvc.cache.retention import DAY, Kept, KeyState, Policy, oldest_kept

NOW = 100 * DAY


def key(
    name: str, ages: Sequence[float], *, tenant: str = "acme", size: int = 10, shared: int = 0
) -> KeyState:
    """Generations 1, 3, 5 … of these ages in days, each with a pack of its own and a shared one."""
    return KeyState(
        id=name,
        text=name,
        tenant=tenant,
        newest=2 * len(ages),
        generations=[
            Kept(
                2 * n + 1,
                NOW - age * DAY,
                f"{name} {n}".encode(),
                {f"{name} {n}".encode(): size} | ({name.encode(): shared} if shared else {}),
            )
            for n, age in enumerate(ages)
        ],
    )


def kept(keys: Sequence[KeyState], policy: Policy) -> list[int]:
    oldest = oldest_kept(keys, policy, NOW)
    return [oldest[one.id] for one in keys]


@pytest.mark.parametrize(("count", "oldest"), [(1, 7), (2, 5), (4, 1), (9, 1)])
def test_the_last_ones(count: int, oldest: int) -> None:
    assert kept([key("k", [40, 30, 20, 10])], Policy(keep_last=count)) == [oldest]


def test_a_key_without_generations() -> None:
    assert kept([key("k", [])], Policy(max_age=DAY)) == [1]


def test_what_was_superseded_a_moment_ago_may_be_in_use() -> None:
    policy = Policy(keep_last=1, min_age=DAY)
    assert kept([key("k", [9, 8, 0.5, 0.2])], policy) == [3]
    assert kept([key("k", [9, 8, 1.5, 1.2])], policy) == [7]
    assert kept([key("k", [9, 8, 0.5, 0.2])], Policy(keep_last=1, min_age=0)) == [7]


def test_what_is_too_old_goes_even_if_nothing_is_left() -> None:
    assert kept([key("k", [40, 30, 5])], Policy(max_age=35 * DAY)) == [3]
    assert kept([key("k", [40, 30, 5])], Policy(max_age=DAY)) == [7]
    assert kept([key("k", [40, 30, 0.5])], Policy(max_age=0.1 * DAY)) == [3]


def test_the_oldest_go_until_the_rest_fits() -> None:
    keys = [key("a", [40, 20]), key("b", [30, 10])]
    assert kept(keys, Policy(max_size=40)) == [1, 1]
    assert kept(keys, Policy(max_size=39)) == [3, 1]
    assert kept(keys, Policy(max_size=20)) == [3, 3]
    assert kept(keys, Policy(max_size=19)) == [5, 3]
    assert kept(keys, Policy(max_size=0)) == [5, 5]


def test_what_may_be_in_use_does_not_go_for_room() -> None:
    keys = [key("a", [40, 0.5]), key("b", [30, 10])]
    assert kept(keys, Policy(max_size=0)) == [1, 5]


def test_a_shared_pack_counts_once_and_goes_with_the_last() -> None:
    keys = [key("a", [40, 20, 10], shared=100)]
    assert kept(keys, Policy(max_size=130)) == [1]
    assert kept(keys, Policy(max_size=129)) == [3]
    assert kept(keys, Policy(max_size=109)) == [7]


def test_each_tenant_has_its_room() -> None:
    keys = [key("a", [40, 20]), key("b", [90, 80], tenant="other")]
    assert kept(keys, Policy(max_size=20)) == [1, 1]
    assert kept(keys, Policy(max_size=10)) == [3, 3]
