"""Logs of objects that are numbered from 1 without gaps: which number is the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildsvc.cache.keys import LAST_NUMBER
from buildsvc.errors import ObjectNotFound, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildsvc.store.contract import Store

_LIST_LIMIT = 2000  # names to read of a LIST; from the last of them the search goes on by doubling


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


async def _listed(
    store: Store, prefix: str, number_of: Callable[[str], int | None], below: int
) -> int:
    """The newest number below that LIST shows, 0 when it shows none or fails."""
    newest = seen = 0
    try:
        async for found in store.list(prefix):
            number = number_of(found.name) or 0
            newest = max(newest, number if number < below else 0)
            seen += 1
            if seen >= _LIST_LIMIT:
                break
    except StoreError:
        return newest
    return newest
