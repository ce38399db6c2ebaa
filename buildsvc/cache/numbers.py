"""Logs of objects that are numbered from 1: which number is the newest.

Nothing is left out when a log grows. Of what nobody needs any more all but the *milestones* may be
deleted, a day after it was written: those by which the newest one is found where LIST fails. The
search puts the number together from its highest bit down, so what it looks for and finds are the
powers of two, and the newest number with some of its lowest bits cleared. Later searches look for
nothing else below that number: one that is larger has the same bits above the highest in which
the two differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildsvc.cache.keys import LAST_NUMBER
from buildsvc.errors import ObjectNotFound, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from buildsvc.store.contract import Store

_LIST_LIMIT = 2000  # names to read of a LIST; a longer one is no help


def is_milestone(number: int, newest: int) -> bool:
    """Whether a search may need the number, ``newest`` being there."""
    lowest_bit = number & -number
    return number in (lowest_bit, newest - newest % lowest_bit)


async def newest_number(
    store: Store,
    prefix: str,
    name_of: Callable[[int], str],
    number_of: Callable[[str], int | None],
    below: int = LAST_NUMBER + 1,
) -> int:
    """The number of the newest object below ``below``, 0 when there is none. Raises StoreError.

    ``number_of`` is None for names of other objects below ``prefix``. Costs a LIST and one failed
    read when the LIST is up to date, and a number of reads logarithmic in what it lacks when it
    is not. An object that was there before the call is found.
    """

    async def exists(number: int) -> bool:
        if number >= below:
            return False
        try:
            await store.stat(name_of(number))
        except ObjectNotFound:
            return False
        return True

    low = await _listed(store, prefix, number_of, below)
    if not low:
        return await _by_milestones(exists)
    # What is younger than the LIST is there without gaps.
    step = 1
    while await exists(low + step):
        low += step
        step *= 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if await exists(middle):
            low = middle
        else:
            high = middle
    return low


async def _by_milestones(exists: Callable[[int], Awaitable[bool]]) -> int:
    number, bit = 0, 1
    while await exists(bit):
        number, bit = bit, bit * 2
    bit = number // 2
    while bit:
        if await exists(number + bit):
            number += bit
        bit //= 2
    return number


async def _listed(
    store: Store, prefix: str, number_of: Callable[[str], int | None], below: int
) -> int:
    """The newest number below that LIST shows; 0 when it shows none, fails or is too long."""
    newest = seen = 0
    try:
        async for found in store.list(prefix):
            number = number_of(found.name) or 0
            newest = max(newest, number if number < below else 0)
            seen += 1
            if seen > _LIST_LIMIT:
                return 0
    except StoreError:
        return 0
    return newest
