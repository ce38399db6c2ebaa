"""Which objects are on disk, who waits for the others, and what was used in which order."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent.index import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sidecar.agent.events import Events


class ObjectId(NamedTuple):
    """A snapshot by its name or a blob by its digest."""

    kind: agent_pb2.ObjectKind.ValueType
    name: str

    def message(self) -> agent_pb2.ObjectId:
        """The same for the wire."""
        return agent_pb2.ObjectId(kind=self.kind, name=self.name)


def snapshot(name: str) -> ObjectId:
    """The id of a snapshot."""
    return ObjectId(agent_pb2.OBJECT_KIND_SNAPSHOT, name)


def blob(digest: str) -> ObjectId:
    """The id of a blob."""
    return ObjectId(agent_pb2.OBJECT_KIND_BLOB, digest)


class _Missing:
    """An object that is not on disk, and the future of those who wait for it."""

    def __init__(self) -> None:
        self.waiters: asyncio.Future[None] | None = None
        self.count = 0
        self.removed = asyncio.Event()


class Residency:
    """Everything is local unless `add_lazy` said otherwise."""

    def __init__(self, events: Events, clock: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._clock = clock
        self._missing: dict[ObjectId, _Missing] = {}
        self._used: dict[ObjectId, None] = {}

    @property
    def used(self) -> Sequence[ObjectId]:
        """Objects in order of first use."""
        return tuple(self._used)

    def is_demanded(self, key: ObjectId) -> bool:
        """Whether somebody waits for the object now."""
        missing = self._missing.get(key)
        return missing is not None and missing.waiters is not None

    def demanded(self) -> list[ObjectId]:
        """Objects that somebody waits for now."""
        return [key for key, missing in self._missing.items() if missing.waiters is not None]

    def is_local(self, key: ObjectId) -> bool:
        """Whether the bytes are on disk."""
        return key not in self._missing

    def add_lazy(self, key: ObjectId) -> None:
        """The object is known, its bytes are not here."""
        self._missing.setdefault(key, _Missing())

    def mark_local(self, key: ObjectId) -> None:
        """The bytes are here: whoever waits goes on."""
        self._settle(self._missing.pop(key, None), None)

    def forget(self, key: ObjectId) -> None:
        """The object is gone: whoever waits is told so, and whoever fills it."""
        self._used.pop(key, None)
        missing = self._missing.pop(key, None)
        if missing is not None:
            missing.removed.set()
        self._settle(missing, Unavailable(f"{key.name} was removed while it was waited for"))

    async def removed(self, key: ObjectId) -> None:
        """Returns when an object that is not on disk now is forgotten."""
        if (missing := self._missing.get(key)) is not None:
            await missing.removed.wait()

    def fail(self, key: ObjectId, reason: str) -> bool:
        """Whoever waits gets Unavailable; the next to ask makes a new demand.

        Answers whether anybody waited.
        """
        missing = self._missing.get(key)
        if missing is None or missing.waiters is None:
            return False
        self._settle(missing, Unavailable(f"{key.name} cannot be had: {reason}"))
        return True

    def demand(self, key: ObjectId) -> None:
        """Somebody else waits for the object: counts its use and makes the demand."""
        if self.is_local(key):
            return
        future = self._demand(key)
        if key not in self._used:
            self._used[key] = None
            started = self._clock()
            future.add_done_callback(lambda done: self._arrived(key, started, done))

    async def require(self, keys: Iterable[ObjectId]) -> None:
        """Returns when all are local; counts their first use. Raises Unavailable."""
        wanted = list(keys)
        first = [key for key in wanted if key not in self._used]
        self._used.update(dict.fromkeys(first))
        started = self._clock()
        waiting = {
            key: self._demand(key) for key in dict.fromkeys(wanted) if not self.is_local(key)
        }
        for key in first:
            if key not in waiting:
                self._publish_use(key, 0.0)
        try:
            for key, future in waiting.items():
                # Shielded: others wait for the same object.
                await asyncio.shield(future)
                if key in first:
                    self._publish_use(key, self._clock() - started)
        finally:
            for key, future in waiting.items():
                # A failure of one ends the wait for the others, which may fail later unseen.
                future.add_done_callback(_seen)
                self._leave(key, future)

    def _demand(self, key: ObjectId) -> asyncio.Future[None]:
        missing = self._missing[key]
        if missing.waiters is None:
            missing.waiters = asyncio.get_running_loop().create_future()
            self._events.publish(agent_pb2.Event(demand=key.message()))
        missing.count += 1
        return missing.waiters

    def _leave(self, key: ObjectId, future: asyncio.Future[None]) -> None:
        """Ends the demand with the last of those who waited."""
        missing = self._missing.get(key)
        if missing is None or missing.waiters is not future:
            return
        missing.count -= 1
        if not missing.count:
            missing.waiters = None

    def _arrived(self, key: ObjectId, started: float, future: asyncio.Future[None]) -> None:
        if future.exception() is None:
            self._publish_use(key, self._clock() - started)

    def _publish_use(self, key: ObjectId, waited: float) -> None:
        use = agent_pb2.Use(object=key.message(), waited=waited)
        self._events.publish(agent_pb2.Event(use=use))

    @staticmethod
    def _settle(missing: _Missing | None, error: Unavailable | None) -> None:
        if missing is None or missing.waiters is None:
            return
        waiters, missing.waiters, missing.count = missing.waiters, None, 0
        if error is None:
            waiters.set_result(None)
        else:
            waiters.set_exception(error)


def _seen(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
