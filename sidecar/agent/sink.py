"""Where captured bytes go: chunks that nobody has yet, into packs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from buildsvc.cache import chunks
from buildsvc.cache.packs import FinishedPack, PackWriter
from sidecar.agent.errors import StagingUnusable


class ChunkSink:
    """Puts each chunk into the open pack, unless it is known.

    Raises StagingUnusable when a pack cannot be written; then what `known` holds is not true any
    more, and the sink must not be used again.
    """

    def __init__(
        self, writer: PackWriter, known: set[bytes], finished: Callable[[FinishedPack], None]
    ) -> None:
        """Add new digests to `known`; hand each full pack to `finished`, which may block."""
        self._writer = writer
        self._known = known
        self._finished = finished

    def put(self, data: bytes | bytearray | memoryview) -> bytes:
        """Store one chunk of 1 byte to `chunks.MAX_LENGTH`; return its digest."""
        digest = chunks.digest(data)
        if digest not in self._known:
            with _staging():
                pack = self._writer.add(digest, chunks.encode(data), len(data))
            self._known.add(digest)
            if pack is not None:
                self._finished(pack)
        return digest

    def know(self, digests: Iterable[bytes]) -> None:
        """Take chunks as stored already."""
        self._known.update(digests)

    def flush(self) -> None:
        """Close the open pack, if there is one."""
        with _staging():
            pack = self._writer.finish()
        if pack is not None:
            self._finished(pack)


@contextmanager
def _staging() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StagingUnusable("a pack cannot be written", found=str(error)) from error
