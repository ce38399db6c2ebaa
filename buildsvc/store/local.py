"""The store in a local directory: an object's name is its path below the root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildsvc.errors import StoreUnavailable
from buildsvc.store.contract import MAX_GET
from buildsvc.store.directory import ObjectDirectory
from buildsvc.store.names import check_name, check_prefix
from buildsvc.store.ranges import check_range
from buildsvc.store.threads import Threads

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator
    from pathlib import Path

    from buildsvc.store.contract import ObjectStat

_LIST_PAGE = 500


class LocalStore:
    """``Store`` in the directory ``root``, which is made a store by the first write.

    Several processes, and machines on one file system with atomic ``link`` and ``rename``, may
    use one directory. A directory with anything else in it is refused, for reading too.
    ``threads`` bounds the file operations at one time.
    """

    def __init__(self, root: Path, threads: int = 8) -> None:
        self._root = root
        self._directory = ObjectDirectory(root)
        self._threads = Threads(threads, "local-store")

    def path(self, name: str) -> Path:
        """Where the object of this name lies, whether it is there or not."""
        return self._root / check_name(name)

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        return await self._threads.run(self._directory.read, check_name(name), limit)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        check_range(start, length)
        return await self._threads.run(self._directory.read_range, check_name(name), start, length)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        check_range(start, length)
        check_name(name)

        def copy(target: int, stop: threading.Event) -> int:
            return self._directory.copy_out(name, start, length, target=target, at=at, stop=stop)

        return await self._threads.borrow(fd, copy)

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        await self._threads.run(
            self._directory.write,
            check_name(name),
            lambda draft: draft.write(data),
            exclusive=False,
        )

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        await self._threads.run(self._directory.write_file, check_name(name), path)

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        await self._threads.run(
            self._directory.write,
            check_name(name),
            lambda draft: draft.write(data),
            exclusive=True,
        )

    async def receive(
        self, name: str, chunks: AsyncIterator[bytes], *, exclusive: bool, size: int | None
    ) -> None:
        """``put`` or, if ``exclusive``, ``create`` from a stream, with bounded memory.

        Raises:
            StoreUnavailable: ``size`` is given and the stream had another number of bytes.
            ObjectExists: see ``Store.create``.
        """
        run, directory = self._threads.run, self._directory
        draft = await run(directory.begin, check_name(name))
        try:
            async for chunk in chunks:
                await run(directory.append, name, draft, chunk)
            if size is not None and draft.size != size:
                raise StoreUnavailable(
                    f"{name} arrived cut off",
                    expected=f"{size} bytes",
                    found=f"{draft.size} bytes",
                )
            await run(directory.publish, name, draft, exclusive=exclusive)
        finally:
            await run(draft.discard)

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        return await self._threads.run(self._directory.stat, check_name(name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``."""
        entries = await self._threads.run(self._directory.entries, check_prefix(prefix))
        while page := await self._threads.run(self._directory.page, entries, _LIST_PAGE):
            for stat in page:
                yield stat

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        await self._threads.run(self._directory.remove, check_name(name))

    async def close(self) -> None:
        """See ``Store.close``."""
        self._threads.close()
