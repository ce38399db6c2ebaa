"""A store that fails as a script says; for the tests of everything above a store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from buildsvc.errors import ShortObject, StoreUnavailable
from buildsvc.store.contract import MAX_GET
from buildsvc.store.copying import write_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from buildsvc.store.contract import ObjectStat, Store

P = ParamSpec("P")
T = TypeVar("T")


def _unavailable() -> Exception:
    return StoreUnavailable("a scripted fault")


@dataclass(frozen=True, slots=True)
class Fail:
    """Raise ``error``; the store is not asked."""

    error: Exception = field(default_factory=_unavailable)


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """Let the store do it, then raise ``error``: the ambiguous failure."""

    error: Exception = field(default_factory=_unavailable)


@dataclass(frozen=True, slots=True)
class Hold:
    """Set ``reached``, wait for ``go``, then do it."""

    go: asyncio.Event
    reached: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Truncate:
    """Only the first ``keep`` bytes pass.

    ``get`` returns them, a range ends in ``ShortObject``, a write stores them as if they were all.
    """

    keep: int


@dataclass(frozen=True, slots=True)
class FlipBit:
    """One bit of the bytes that are read or written is inverted."""

    bit: int


Fault = Fail | LoseAnswer | Hold | Truncate | FlipBit


@dataclass(frozen=True, slots=True)
class Rule:
    """``fault`` happens at the ``call``-th operation, from 1, that the patterns match.

    ``operation`` is a method's name; it and ``name`` (for a listing, the prefix) may have the
    shell's wildcards. ``call`` 0 means every one.
    """

    operation: str
    name: str
    call: int
    fault: Fault


class FaultyStore:
    """``inner``, disturbed by ``script``; of several rules that apply, the first one does.

    ``calls`` records operation and name of everything asked, in order.
    """

    def __init__(self, inner: Store, script: Sequence[Rule]) -> None:
        self._inner = inner
        self._script = tuple(script)
        self._counts = [0] * len(self._script)
        self.calls: list[tuple[str, str]] = []

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        fault = self._next("get", name)
        return _damaged(await _disturbed(fault, self._inner.get, name, limit=limit), fault)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        fault = self._next("get_range", name)
        data = await _disturbed(fault, self._inner.get_range, name, start, length)
        if isinstance(fault, Truncate):
            raise ShortObject(f"{name} was cut by the script")
        return _damaged(data, fault)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        fault = self._next("get_range_to", name)
        if not isinstance(fault, Truncate | FlipBit):
            return await _disturbed(fault, self._inner.get_range_to, name, start, length, fd, at)
        data = _damaged(await self._inner.get_range(name, start, length), fault)
        await asyncio.to_thread(write_at, fd, data, at)
        if len(data) < length:
            raise ShortObject(f"{name} was cut by the script")
        return length

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        fault = self._next("put", name)
        await _disturbed(fault, self._inner.put, name, _damaged(data, fault))

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        fault = self._next("put_file", name)
        if isinstance(fault, Truncate | FlipBit):
            data = await asyncio.to_thread(path.read_bytes)
            await self._inner.put(name, _damaged(data, fault))
        else:
            await _disturbed(fault, self._inner.put_file, name, path)

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        fault = self._next("create", name)
        await _disturbed(fault, self._inner.create, name, _damaged(data, fault))

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        return await _disturbed(self._next("stat", name), self._inner.stat, name)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``; ``Truncate`` ends it with an error after ``keep`` entries."""
        fault = self._next("list", prefix)
        await _disturbed(fault, _nothing)
        given = 0
        async for stat in self._inner.list(prefix):
            if isinstance(fault, Truncate) and given == fault.keep:
                raise _unavailable()
            yield stat
            given += 1

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        await _disturbed(self._next("delete", name), self._inner.delete, name)

    async def close(self) -> None:
        """See ``Store.close``; never disturbed."""
        await self._inner.close()

    def _next(self, operation: str, name: str) -> Fault | None:
        self.calls.append((operation, name))
        chosen: Fault | None = None
        for index, rule in enumerate(self._script):
            if fnmatchcase(operation, rule.operation) and fnmatchcase(name, rule.name):
                self._counts[index] += 1
                if chosen is None and rule.call in {0, self._counts[index]}:
                    chosen = rule.fault
        return chosen


async def _nothing() -> None:
    return None


async def _disturbed(
    fault: Fault | None, call: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    match fault:
        case Fail(error=error):
            raise error
        case LoseAnswer(error=error):
            await call(*args, **kwargs)
            raise error
        case Hold(go=go, reached=reached):
            reached.set()
            await go.wait()
    return await call(*args, **kwargs)


def _damaged(data: bytes, fault: Fault | None) -> bytes:
    match fault:
        case Truncate(keep=keep):
            return data[:keep]
        case FlipBit(bit=bit) if data:
            changed = bytearray(data)
            changed[bit // 8 % len(data)] ^= 1 << bit % 8
            return bytes(changed)
    return data
