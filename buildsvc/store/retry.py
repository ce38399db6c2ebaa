"""A wrapper that tries again what failed in passing: the one layer that does."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from buildsvc.errors import StoreUnavailable
from buildsvc.store.contract import MAX_GET
from buildsvc.store.pages import next_page

if TYPE_CHECKING:
    from pathlib import Path

    from buildsvc.store.contract import ObjectStat, Store

P = ParamSpec("P")
T = TypeVar("T")

Sleep = Callable[[float], Awaitable[None]]
OnRetry = Callable[[str, int, BaseException], None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one operation is worth trying. Times in seconds."""

    attempts: int = 6
    first_wait: float = 0.1
    """Doubles from one attempt to the next."""
    longest_wait: float = 5.0
    """Without what the store asks for, which is added."""
    jitter: float = 0.1
    """At most this much is added to each wait, at random."""
    deadline: float = 120.0
    """For all attempts and waits together; an attempt under way is cancelled."""


DEFAULT_POLICY = RetryPolicy()


def _silent(_operation: str, _attempt: int, _error: BaseException) -> None:
    return None


class RetryingStore:
    """``inner``, with ``StoreUnavailable`` retried within ``policy``; other errors pass at once.

    Every operation of the contract but ``create`` is idempotent. A ``create`` whose answer was
    lost may find its own object when it is tried again: that is ``ObjectExists``, and the caller
    reads and compares. ``StoreUnavailable`` from a write leaves open whether it took effect.

    A store that asks to be left alone for a while (``StoreUnavailable.after``) is, by all
    operations; one whose deadline comes before fails at once.

    ``on_retry`` is told operation, number of the failed attempt (from 1) and error before each
    wait. ``sleep`` waits, ``clock`` gives seconds.
    """

    def __init__(
        self,
        inner: Store,
        policy: RetryPolicy = DEFAULT_POLICY,
        *,
        on_retry: OnRetry = _silent,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._on_retry = on_retry
        self._sleep = sleep
        self._clock = clock
        self._not_before = 0.0

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        return await self._persist("get", self._inner.get, name, limit=limit)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        return await self._persist("get_range", self._inner.get_range, name, start, length)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        return await self._persist(
            "get_range_to", self._inner.get_range_to, name, start, length, fd, at
        )

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        await self._persist("put", self._inner.put, name, data)

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        await self._persist("put_file", self._inner.put_file, name, path)

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``, and above about ``ObjectExists``."""
        await self._persist("create", self._inner.create, name, data)

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        return await self._persist("stat", self._inner.stat, name)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``; a listing that breaks is begun anew, after the last name given."""
        listing = _Listing(self._inner, prefix)
        while page := await self._persist("list", listing.next_page):
            for stat in page:
                yield stat

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        await self._persist("delete", self._inner.delete, name)

    async def close(self) -> None:
        """See ``Store.close``."""
        await self._inner.close()

    async def _persist(
        self,
        operation: str,
        call: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        policy = self._policy
        last: deque[BaseException] = deque(maxlen=1)

        def before_sleep(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if error is not None:
                last.append(error)
                self._on_retry(operation, state.attempt_number, error)

        tried_enough = stop_after_attempt(policy.attempts)
        backoff = wait_exponential_jitter(
            multiplier=policy.first_wait, max=policy.longest_wait, jitter=policy.jitter
        )

        def out_of_time(state: RetryCallState) -> bool:
            return _asked(state) > policy.deadline - (state.seconds_since_start or 0.0)

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=lambda state: tried_enough(state) or out_of_time(state),
            # Added, not the larger of both: all who were sent away would come back at one moment.
            wait=lambda state: backoff(state) + _asked(state),
            sleep=self._sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        ends = self._clock() + policy.deadline

        async def attempt() -> T:
            await self._left_alone(operation, ends)
            try:
                return await call(*args, **kwargs)
            except StoreUnavailable as error:
                # Who asks for longer than anybody here waits may have asked somebody else.
                after = min(error.after, policy.deadline)
                self._not_before = max(self._not_before, self._clock() + after)
                raise

        timeout = asyncio.timeout(policy.deadline)
        try:
            async with timeout:
                return await retrying(attempt)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise StoreUnavailable(
                f"{operation} was given up",
                expected=f"an answer within {policy.deadline:g} s",
                found=str(last[-1]) if last else "none",
            ) from error

    async def _left_alone(self, operation: str, ends: float) -> None:
        """Wait until the store may be asked again; raises if that is after ``ends``."""
        while (pause := self._not_before - self._clock()) > 0:
            if self._not_before > ends:
                raise StoreUnavailable(
                    f"{operation} was not sent: the store asks to be left alone", after=pause
                )
            # Not all at one moment.
            await self._sleep(pause + random.uniform(0, self._policy.jitter))  # noqa: S311


def _asked(state: RetryCallState) -> float:
    """For how many seconds the store asked to be left alone."""
    error = state.outcome.exception() if state.outcome else None
    return error.after if isinstance(error, StoreUnavailable) else 0.0


class _Listing:
    """A listing that can go on after an error."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._entries: AsyncIterator[ObjectStat] | None = None
        self._last = ""

    async def next_page(self) -> tuple[ObjectStat, ...]:
        if self._entries is None:
            self._entries = self._after(self._last)
        try:
            page = await next_page(self._entries)
        except StoreUnavailable:
            self._entries = None
            raise
        if page:
            self._last = page[-1].name
        return page

    async def _after(self, last: str) -> AsyncIterator[ObjectStat]:
        async for stat in self._store.list(self._prefix):
            if stat.name > last:
                yield stat
