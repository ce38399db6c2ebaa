"""Fences: the heads by which a collection ends what was published before it.

See ``buildsvc.cache.collect``, step 3.
"""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, NamedTuple

from buildsvc.cache.generations import Floor, Generation, GenerationLog
from buildsvc.cache.keys import LAST_NUMBER, parse_number
from buildsvc.cache.numbers import newest_number
from buildsvc.errors import CacheError, HeadConflict, ObjectExists

if TYPE_CHECKING:
    from buildsvc.cache.survey import Listed, Reader
    from buildsvc.store.contract import Store


async def fence(
    reader: Reader, log: GenerationLog, collection: int, oldest: int, *, below: int
) -> None:
    """Creates the key's next head, unless the newest one knows of the collection already.

    It repeats the newest generation that can be used and is not older than ``oldest``. ``below``
    is one more than the last number, or a head that stands above a gap: nobody may publish in
    there either. Raises StoreError, UnsupportedFormat, UntrustedHead.
    """
    while (number := await log.newest_number(below)) + 1 < below:
        newest: Generation | None = None
        try:
            newest = await log.read(number) if number else None
        except CacheError:
            # Whether it is what it seems to be is looked at below, with all others. It may be of
            # a later collection.
            collection = max(collection, await log.collections.newest())
        if newest is not None and newest.head.collection >= collection:
            return
        place = _Place(number, newest, collection)
        if await _continue(reader, log, place, oldest) is not None:
            return


async def drop(reader: Reader, log: GenerationLog, oldest: int) -> Generation:
    """Creates the key's next head, by which nothing older than ``oldest`` is kept.

    What was published from ``oldest`` on stays. It is a fence that knows of no more collections
    than the head before it, so to writers and collections it is like any published head. Raises
    StoreError, UnsupportedFormat, UntrustedHead.
    """
    while True:
        number = await log.newest_number()
        newest: Generation | None = None
        # One that cannot be read is continued as a publisher does: what is known is what has begun.
        with suppress(CacheError):
            newest = await log.read(number) if number else None
        known = newest.head.collection if newest else await log.collections.newest()
        made = await _continue(reader, log, _Place(number, newest, known), oldest)
        if made is not None:
            return made


class _Place(NamedTuple):
    """The newest head, its number and, None where it cannot be read, itself; what is known."""

    number: int
    newest: Generation | None
    collection: int


async def _continue(
    reader: Reader, log: GenerationLog, place: _Place, oldest: int
) -> Generation | None:
    """Creates the head after that one; None when somebody else has done so.

    What is kept of the key never grows again: what newer heads have given up may be deleted, though
    ``oldest`` was decided before.
    """
    repeats, oldest = await _newest_usable(reader, log, oldest)
    try:
        return await log.fence(
            place.number + 1,
            parent=place.newest,
            collection=place.collection,
            oldest_kept=oldest if repeats else place.number + 1,
            repeats=repeats,
        )
    except HeadConflict:
        return None


async def fence_unknown(store: Store, listed: Listed) -> None:
    """Takes the next number of a key that nobody can name. Raises StoreError.

    A publisher that can name it asks for the newest collection after a head that it cannot read.
    """

    def name(number: int) -> str:
        return f"{listed.prefix}{number:020d}"

    def number_of(text: str) -> int | None:
        return parse_number(text.removeprefix(listed.prefix))

    while (number := await newest_number(store, listed.prefix, name, number_of)) < LAST_NUMBER:
        try:
            await store.create(name(number + 1), b"")
        except ObjectExists:
            continue
        return


async def _newest_usable(
    reader: Reader, log: GenerationLog, oldest: int
) -> tuple[Generation | None, int]:
    """The newest generation of those that are kept, and the number of the oldest of these."""
    floor = Floor()
    async with aclosing(reader.usable(log, floor)) as usable:
        async for generation, _ in usable:
            oldest = max(oldest, floor.number)
            if generation.origin >= oldest:
                return generation, oldest
    return None, oldest
