"""Where content is cut, so that a change moves few cuts.

Large files are cut where a rolling hash of their content says so (FastCDC: Xia et al., "The
Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", 2020).
Small files share bundles, which end where a hash of a *path* says so: a file that is added or
changed affects its own bundle, and the next cut is where it was.

The parameters are part of no format, any cuts can be read; but other cuts make chunks that
the store does not know yet, so a change of them uploads everything once.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from pyfastcdc import FastCDC

from buildsvc.cache.chunks import MAX_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

MIN_CHUNK = 256 << 10
"""Bytes below which there is no cut, but at a file's end."""
AVERAGE_CHUNK = 1 << 20
"""Bytes around which the lengths lie."""
MAX_CHUNK = MAX_LENGTH

SMALL_FILE = MIN_CHUNK
"""Bytes up to which a file is bundled: cutting it would do nothing."""
BUNDLE_MIN = 256 << 10
"""Bytes that a bundle has before a boundary ends it."""
BUNDLE_MAX = 2 << 20
"""Bytes that a bundle has at most."""

_PATHS_PER_BOUNDARY = 64


def split(data: bytes | memoryview | mmap) -> Iterator[tuple[int, int]]:
    """Offset and length of each chunk of ``data``, in order and without gaps.

    Lengths are ``MIN_CHUNK`` to ``MAX_CHUNK``, the last may be shorter; empty data has none.
    The data is referred to until the iterator is exhausted or dropped.
    """
    if len(data) <= MIN_CHUNK:
        if len(data):
            yield 0, len(data)
        return
    cutter = FastCDC(
        AVERAGE_CHUNK, min_size=MIN_CHUNK, max_size=MAX_CHUNK, normalized_chunking=2, seed=0
    )
    for chunk in cutter.cut_buf(memoryview(data)):
        yield chunk.offset, chunk.length


def bundle_boundary(path: bytes) -> bool:
    """Whether a bundle that has ``BUNDLE_MIN`` bytes ends before the file at ``path``.

    True for one path in 64. Depends on the path alone, so that a changed file leaves it.
    """
    return zlib.crc32(path) % _PATHS_PER_BOUNDARY == 0
