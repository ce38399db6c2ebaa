"""One bucket, asked from the event loop: limits, credentials, and whether it has versioning."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from buildsvc.errors import StoreUnavailable
from buildsvc.store.httpconnection import Call, Origin
from buildsvc.store.httpexchange import Exchanges
from buildsvc.store.osserrors import OssProblemError, oss_error, versioned
from buildsvc.store.threads import Threads

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine

    from buildsvc.store.ossaddress import OssAddress
    from buildsvc.store.osscredentials import Credentials
    from buildsvc.store.ossrenewal import RenewedCredentials
    from buildsvc.store.ossrequests import OssRequests
    from buildsvc.store.timeouts import HttpTimeouts

T = TypeVar("T")

if TYPE_CHECKING:
    Run: TypeAlias = Callable[[Credentials, Call], Coroutine[object, object, T]]


class OssBucket:
    """The bucket of ``address``; connects with the first question.

    Before it, the bucket is asked whether it has versioning, and refused then. A question that is
    cancelled or takes too long shuts its connection down, so its thread ends too.
    """

    def __init__(
        self,
        address: OssAddress,
        credentials: RenewedCredentials,
        timeouts: HttpTimeouts,
        connections: int,
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._total = timeouts.total
        self._threads = Threads(connections, "oss-store")
        self._exchanges = Exchanges(Origin.of(address.bucket_url), timeouts)
        self._checking = asyncio.Lock()
        self._checked = False

    async def ask(
        self, method: str, name: str, work: Callable[[OssRequests], T], *, creates: bool = False
    ) -> T:
        """Return what ``work`` returns, in a thread; ``method`` and ``name`` are for its errors.

        ``creates`` as in ``oss_error``.
        """
        return await self._finished(method, name, self._in_thread(work), creates=creates)

    async def borrow(
        self,
        method: str,
        name: str,
        fd: int,
        work: Callable[[OssRequests, int, threading.Event], T],
    ) -> T:
        """``ask`` with what ``Threads.borrow`` gives."""

        async def run(credentials: Credentials, call: Call) -> T:
            return await self._threads.borrow(
                fd,
                lambda target, stop: self._perform(
                    credentials, call, lambda requests: work(requests, target, stop)
                ),
            )

        return await self._finished(method, name, run, creates=False)

    async def close(self) -> None:
        """Give back connections and threads."""
        await self._credentials.close()
        self._exchanges.close()
        self._threads.close()

    async def _finished(
        self,
        method: str,
        name: str,
        run: Run[T],
        *,
        creates: bool,
    ) -> T:
        limit = asyncio.timeout(self._total)
        try:
            async with limit:
                await self._check_bucket()
                return await self._answered(method, name, run, creates=creates)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise StoreUnavailable(
                f"{method} {name or 'of the bucket'} took too long at {self._address.bucket_url}"
            ) from error

    async def _answered(
        self,
        method: str,
        name: str,
        run: Run[T],
        *,
        creates: bool,
    ) -> T:
        credentials = await self._credentials.current()
        call = Call()
        try:
            return await run(credentials, call)
        except OssProblemError as error:
            problem = error.problem
        finally:
            call.end()
        renews = problem.stale and self._credentials.reject(credentials)
        raise oss_error(problem, method, name, creates=creates, renews=renews)

    async def _check_bucket(self) -> None:
        """Raise ``StoreRefused`` if the bucket has versioning; asked once."""
        if self._checked:
            return
        async with self._checking:
            await self._ask_versioning()

    async def _ask_versioning(self) -> None:
        # Of those who waited, only the first one asks.
        if self._checked:
            return
        ask = self._in_thread(lambda requests: requests.versioning())
        state = await self._answered("GET", "", ask, creates=False)
        if state:
            raise versioned(self._address.bucket, f"versioning {state}")
        self._checked = True

    def _in_thread(self, work: Callable[[OssRequests], T]) -> Run[T]:
        async def run(credentials: Credentials, call: Call) -> T:
            return await self._threads.run(self._perform, credentials, call, work)

        return run

    def _perform(self, credentials: Credentials, call: Call, work: Callable[[OssRequests], T]) -> T:
        # The first one imports oss2, here, where it does not hold up the event loop.
        from buildsvc.store.ossrequests import perform

        return perform(self._exchanges, self._address, credentials, call, work)
