"""Finding the key, and the generation of it, that somebody has named."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import aclosing
from difflib import get_close_matches
from typing import TYPE_CHECKING

from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.several import each
from buildsvc.cache.survey import Listed, Reader, listed_keys
from buildsvc.errors import (
    CacheError,
    ConfigError,
    CorruptObject,
    NotPublished,
    ObjectNotFound,
    UsageError,
)

if TYPE_CHECKING:
    from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
    from buildsvc.store.contract import Store

AT_A_TIME = 8
"""Keys that are read at a time."""

_ID = re.compile(r"[0-9a-f]{32}")
_NEAREST = 5


async def find_key(store: Store, text: str, progress: Callable[[str, int, int], None]) -> CacheKey:
    """The key of that canonical text, with slashes in its name or %2F, or of that id or name.

    Raises NotPublished, UsageError when several keys have the name, StoreError.
    """
    named = _parse(text)
    for key_id in ([named.id] if named else []) + ([text] if _ID.fullmatch(text) else []):
        for listed in await listed_keys(store, key_id):
            if (key := named or await Reader(store).find_key(listed)) is not None:
                return key
    keys = [key for key, _ in await all_keys(store, progress) if key is not None]
    same = sorted(key.text for key in keys if key.name == text)
    if len(same) > 1:
        raise UsageError(
            f"several keys have the name {text!r}", expected=f"one of {', '.join(same)}"
        )
    if same:
        return CacheKey.from_text(same[0])
    raise _no_key(text, keys)


async def all_keys(
    store: Store, progress: Callable[[str, int, int], None]
) -> list[tuple[CacheKey | None, Listed]]:
    """All keys that LIST shows, by text; None for those that nobody can name. Raises StoreError."""
    found: list[tuple[CacheKey | None, Listed]] = []
    keys = await listed_keys(store)

    async def look(listed: Listed) -> None:
        progress("looking up keys", len(found), len(keys))
        found.append((await Reader(store).find_key(listed), listed))

    await each(keys, look, at_a_time=AT_A_TIME)
    found.sort(key=lambda pair: pair[0].text if pair[0] is not None else "")
    return found


async def find_generation(
    log: GenerationLog, number: int | None, skipped: Callable[[int, CacheError], None]
) -> Generation:
    """The generation of that number, or the newest one that can be used.

    ``number`` is from 1 to ``LAST_NUMBER``. ``skipped`` is told of newer ones that cannot be used.

    Raises NotPublished, StoreError, and CacheError when what was asked for, or none there is, can
    be used.
    """
    if number is None:
        return await _newest(log, skipped)
    try:
        generation = await log.read(number)
    except ObjectNotFound:
        kept = await kept_numbers(log)
        raise NotPublished(f"{log.key.text} has no generation {number}", found=kept) from None
    if not generation.head.root:
        raise NotPublished(
            f"head {number} of {log.key.text} says that nothing is kept",
            found=await kept_numbers(log),
        )
    return generation


async def find_root(log: GenerationLog, generation: Generation) -> cache_pb2.Root:
    """The generation's root, valid. Raises as ``read_root``; NotPublished if it was collected."""
    try:
        return await log.read_root(generation)
    except CorruptObject:
        await check_kept(log, generation)
        raise


async def check_kept(log: GenerationLog, generation: Generation) -> None:
    """Raises NotPublished when the generation is older than what is kept of its key."""
    passed: set[int] = set()
    async with aclosing(log.candidates(lambda number, _: passed.add(number))) as candidates:
        async for newer in candidates:
            if newer.origin <= generation.origin:
                return
    if generation.number in passed:
        return
    raise NotPublished(
        f"generation {generation.origin} of {log.key.text} was collected or removed",
        found=await kept_numbers(log),
    )


async def kept_numbers(log: GenerationLog) -> str:
    """Says which generations can be used."""
    numbers = {generation.origin async for generation in log.candidates(lambda _, __: None)}
    return _row(sorted(numbers)) if numbers else "no generation that can be used"


async def _newest(log: GenerationLog, skipped: Callable[[int, CacheError], None]) -> Generation:
    problems: list[CacheError] = []

    def skip(number: int, problem: CacheError) -> None:
        problems.append(problem)
        skipped(number, problem)

    async with aclosing(log.candidates(skip)) as candidates:
        async for generation in candidates:
            return generation
    if problems:
        raise problems[0]
    raise NotPublished(f"{log.key.text} has no generation")


def _parse(text: str) -> CacheKey | None:
    try:
        return CacheKey.from_text(text)
    except ConfigError:
        pass
    # Written with the slashes that are in its name.
    parts = text.split("/")
    if len(parts) < 5:
        return None
    try:
        return CacheKey(parts[0], parts[1], "/".join(parts[2:-2]), parts[-2], parts[-1])
    except ConfigError:
        return None


def _no_key(text: str, keys: list[CacheKey]) -> NotPublished:
    texts = {key.text: key.text for key in keys}
    names = {key.name: key.text for key in keys}
    near = [texts[one] for one in get_close_matches(text, texts, _NEAREST, 0.5)]
    near += [names[one] for one in get_close_matches(text, names, _NEAREST, 0.5)]
    if near:
        found = f"near to it: {', '.join(dict.fromkeys(near))}"
    elif keys:
        found = f"{len(keys)} keys, such as {keys[0].text}"
    else:
        found = "no key at all"
    return NotPublished(
        f"the store has no cache key {text!r}",
        found=found,
        advice="buildsvc cache ls shows all of them",
    )


def _row(numbers: list[int]) -> str:
    """``3, 5 to 9``."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and rows[-1][1] == number - 1:
            rows[-1][1] = number
        else:
            rows.append([number, number])
    return "generations " + ", ".join(
        str(first) if first == last else f"{first} to {last}" for first, last in rows
    )
