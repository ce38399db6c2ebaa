"""Taking a listing apart into pages, for wrappers that act around each request of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
