"""Taking a listing apart into pages, for wrappers that act around each request of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from buildsvc.store.contract import ObjectStat

PAGE = 500
"""Entries per page: bounds what a listing holds in memory."""


async def next_page(entries: AsyncIterator[ObjectStat]) -> tuple[ObjectStat, ...]:
    """The next entries, at most ``PAGE``; empty at the end. Raises what the store raises."""
    page: list[ObjectStat] = []
    while len(page) < PAGE:
        try:
            page.append(await anext(entries))
        except StopAsyncIteration:
            break
    return tuple(page)


async def by_page(
    entries: AsyncIterator[ObjectStat], around: Callable[[], AbstractAsyncContextManager[object]]
) -> AsyncIterator[ObjectStat]:
    """The same entries; each page is fetched inside a context of its own from ``around``.

    Its reader works outside of it.
    """
    while True:
        async with around():
            page = await next_page(entries)
        if not page:
            return
        for stat in page:
            yield stat
