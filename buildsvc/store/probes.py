"""The promises of a store, each with a way to find out whether a real one keeps it.

See ``contract`` for the promises and ``check`` for who tries them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildsvc.errors import ObjectExists, ObjectNotFound, ShortObject, StoreRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from buildsvc.store.contract import Store

# More than a page of any server's list.
_MANY = 1203
_AT_ONCE = 32
_CREATORS = 16
_ROUNDS = 8
# Seconds: what a server's and this machine's clock may be apart, beyond a list's whole seconds.
_SKEW = 60.0
_BLOCK = 1 << 20


class Broken(Exception):
    """The promise is not kept: what was seen, and what to do if more is known than usual."""

    def __init__(self, seen: str, advice: str = "") -> None:
        super().__init__(seen)
        self.advice = advice


class Untested(Exception):
    """It could not be found out."""


@dataclass(slots=True)
class Bench:
    """What a probe works with."""

    store: Store
    other: Store
    """The same one, over connections of its own."""
    prefix: str
    """Of all names; without a directory for each run, which a local store would keep."""
    directory: Path
    large: int
    written: set[str] = field(default_factory=set)

    def name(self, rest: str) -> str:
        """A name below the prefix, of an object that is removed in the end."""
        name = self.prefix + rest
        self.written.add(name)
        return name


@dataclass(frozen=True, slots=True)
class Probe:
    """One promise. ``run`` returns what was seen, or raises ``Broken`` or ``Untested``."""

    name: str
    run: Callable[[Bench], Awaitable[str]]
    breaks: str
    """What does not work on a store that does not keep it."""
    advice: str


async def absent(bench: Bench) -> str:
    """What is not there is told from what is."""
    name = f"{bench.prefix}absent"
    for what, call in (
        ("get", lambda: bench.store.get(name)),
        ("stat", lambda: bench.store.stat(name)),
        ("a range", lambda: bench.store.get_range(name, 0, 1)),
    ):
        try:
            await call()
        except ObjectNotFound:
            continue
        raise Broken(f"{what} of an object that was never written succeeded")
    return "is told from what is there"


async def read_after_write(bench: Bench) -> str:
    """What was written is there at once, for everybody."""
    name = bench.name("written")
    try:
        await bench.store.put(name, b"")
    except StoreRefused:
        # The one error after which nothing is there.
        bench.written.discard(name)
        raise
    for size in (0, 1, 65_537, 1 << 20):
        data = os.urandom(size)
        await bench.store.put(name, data)
        for reader in (bench.store, bench.other):
            found = await reader.get(name)
            if found != data:
                raise Broken(f"{_difference(found, data)} right after a put of {size} bytes")
            stat = await reader.stat(name)
            if stat.size != size:
                raise Broken(f"stat says {stat.size} bytes right after a put of {size}")
    return "0 B to 1 MiB, over two connections"


async def create_only(bench: Bench) -> str:
    """Nothing is created where something is."""
    for name in ("created", "put"):
        full = bench.name(name)
        if name == "put":
            await bench.store.put(full, b"first")
        elif not await _created(bench.store, full, b"first"):
            raise Broken("create was refused although there was no object")
        for creator in (bench.store, bench.other):
            try:
                await creator.create(full, b"second")
            except ObjectExists:
                pass
            else:
                raise Broken(f"create succeeded although there was an object that was {name}")
        if await bench.store.get(full) != b"first":
            raise Broken("create was refused and yet changed the object")
    return "is refused where there is an object"


async def one_winner(bench: Bench) -> str:
    """Of many that create at one time one succeeds, and knows it."""
    for number in range(_ROUNDS):
        name = bench.name(f"race-{number}")
        winners = await _compete(bench, name)
        if winners != [await bench.store.get(name)]:
            raise Broken(
                f"of {_CREATORS} creators at one time {len(winners)} were told that they won"
            )
    return f"{_ROUNDS} times {_CREATORS} creators, one winner each"


async def _compete(bench: Bench, name: str) -> list[bytes]:
    """Create the object many times at once; returns what those wrote who were told so."""

    async def create(nonce: bytes, store: Store) -> bytes | None:
        return nonce if await _created(store, name, nonce) else None

    stores = itertools.cycle((bench.store, bench.other))
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(create(b"%d" % number, next(stores))) for number in range(_CREATORS)
        ]
    return [nonce for task in tasks if (nonce := task.result()) is not None]


async def _created(store: Store, name: str, data: bytes) -> bool:
    """Create the object; whether it is this one: an earlier try may not have been answered."""
    try:
        await store.create(name, data)
    except ObjectExists:
        return await store.get(name) == data
    return True


async def ranges(bench: Bench) -> str:
    """Ranges are exact."""
    name, data = bench.name("ranges"), os.urandom(100_000)
    await bench.store.put(name, data)
    for start, length in ((0, 1), (0, 100_000), (99_999, 1), (12_345, 54_321), (7, 0)):
        found = await bench.store.get_range(name, start, length)
        if found != data[start : start + length]:
            raise Broken(
                f"{_difference(found, data[start : start + length])} in {length} bytes from {start}"
            )
    for start, length in ((0, 100_001), (99_999, 2), (100_000, 1)):
        try:
            await bench.store.get_range(name, start, length)
        except ShortObject:
            continue
        raise Broken(f"{length} bytes from {start} of an object of 100000 were given")
    return "exact, and refused beyond the end"


async def listing(bench: Bench) -> str:
    """Lists have the right names in order, also more than a page of them."""
    names = [bench.name(f"list-{number:020}") for number in range(_MANY)]
    beside = [bench.name(name) for name in ("list", "list.b", "list0")]
    gate = asyncio.Semaphore(_AT_ONCE)

    async def put(name: str) -> None:
        async with gate:
            await bench.store.put(name, b"x")

    async with asyncio.TaskGroup() as group:
        for name in names + beside:
            group.create_task(put(name))
    found = [stat async for stat in bench.other.list(f"{bench.prefix}list-")]
    given = [stat.name for stat in found]
    if given != sorted(set(given)):
        raise Broken("the list is out of order, or has a name twice")
    if foreign := set(given) - set(names):
        raise Broken(f"the list of a prefix has {len(foreign)} other names: {min(foreign)}")
    if any(stat.size != 1 for stat in found):
        raise Broken("the list has wrong sizes")
    half = [stat.name async for stat in bench.other.list(f"{bench.prefix}list-00000000000000001")]
    if not set(half) <= set(names[1000:]) or half != sorted(half):
        raise Broken("the list of a prefix that ends within a name is wrong")
    behind = len(names) - len(given)
    if behind > len(names) // 2:
        raise Broken(f"the list has {len(given)} of {len(names)} objects that are there")
    return f"{len(given)} names in order" + (f", {behind} not there yet" if behind else "")


async def large(bench: Bench) -> str:
    """A large file is stored and read back as it was."""
    source, target = bench.directory / "source", bench.directory / "target"
    name = bench.name("large")
    written = await asyncio.to_thread(_fill, source, bench.large)
    began = time.monotonic()
    await bench.store.put_file(name, source)
    up = time.monotonic() - began
    size = (await bench.other.stat(name)).size
    if size != bench.large:
        raise Broken(f"stored with {size} of {bench.large} bytes")
    began = time.monotonic()
    with await asyncio.to_thread(target.open, "w+b") as file:
        await bench.other.get_range_to(name, 0, bench.large, file.fileno())
    down = time.monotonic() - began
    if await asyncio.to_thread(_digest, target) != written:
        raise Broken("came back with other bytes")
    mib = bench.large / (1 << 20)
    return f"{mib:.0f} MiB: {mib / up:.0f} MiB/s up, {mib / down:.0f} MiB/s down"


async def deletion(bench: Bench) -> str:
    """What was deleted is gone at once."""
    name = bench.name("deleted")
    await bench.store.put(name, b"data")
    for reader in (bench.store, bench.other):
        # So that who caches has it.
        await reader.get(name)
    try:
        await bench.store.delete(name)
    except StoreRefused as error:
        raise Untested(
            f"this identity may not delete, which is right for a build pod's; test with that of "
            f"the garbage collection ({error})"
        ) from error
    await bench.store.delete(name)
    for reader in (bench.store, bench.other):
        try:
            await reader.get(name)
        except ObjectNotFound:
            continue
        raise Broken("an object could be read after it was deleted")
    created = await _created(bench.store, name, b"again")
    if not created or await bench.other.get(name) != b"again":
        raise Broken("an object that was created again has other bytes")
    return "takes effect at once"


async def clock(bench: Bench) -> str:
    """The store's clock is this machine's."""
    name = bench.name("clock")
    before = time.time()
    await bench.store.put(name, b"data")
    after = time.time()
    modified = (await bench.store.stat(name)).modified
    if modified is None:
        raise Untested("the store does not say when an object was written")
    # Servers give whole seconds, or the one before.
    skew = min(0.0, modified + 1 - before) or max(0.0, modified - 1 - after)
    if abs(skew) > _SKEW:
        raise Broken(f"the store's clock is {skew:+.0f} s from this machine's")
    return f"within {abs(skew) + 1:.0f} s of this machine's"


def _difference(found: bytes, expected: bytes) -> str:
    if len(found) != len(expected):
        return f"{len(found)} bytes instead of {len(expected)}"
    return "other bytes"


def _fill(path: Path, size: int) -> bytes:
    digest = hashlib.blake2b()
    with path.open("wb") as file:
        for at in range(0, size, _BLOCK):
            block = os.urandom(min(_BLOCK, size - at))
            digest.update(block)
            file.write(block)
    return digest.digest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
