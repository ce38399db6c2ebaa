"""What each zstd level makes of a cache's chunks: bytes, and one processor's seconds.

    python -m perf.levels DIRECTORY [LEVEL]…

DIRECTORY is a `file://` store's. Chunks that were stored as they are count at every level: one
that does not get smaller is tried all the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from buildsvc.cache import chunks, packs

LEVELS = (1, 2, 3, 4, 5, 6, 9, 12)
_MIB = 1 << 20


def contents(store: Path) -> Iterator[bytes]:
    """Every chunk of every pack. Raises CorruptObject, OSError."""
    for path in sorted(store.glob("packs/*/*")):
        data = path.read_bytes()
        index = packs.read_index(data, len(data))
        columns = zip(index.digests, index.offsets, index.stored, index.lengths, strict=True)
        for digest, offset, stored, length in columns:
            yield chunks.decode(data[offset : offset + stored], length, digest)


def main(argv: Sequence[str]) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(prog="perf.levels", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("levels", type=int, nargs="*", default=LEVELS)
    options = parser.parse_args(argv)
    levels = list(options.levels)
    size, stored, seconds = 0, dict.fromkeys(levels, 0), dict.fromkeys(levels, 0.0)
    for chunk in contents(options.directory):
        size += len(chunk)
        # In turn, so that a machine that is slower for a while is so for all of them.
        for level in levels:
            began = time.process_time()
            stored[level] += len(chunks.encode(chunk, level))
            seconds[level] += time.process_time() - began
    if not size:
        print(f"perf.levels: there are no packs in {options.directory}", file=sys.stderr)
        return 66
    print(f"| level | MiB of {size / _MIB:.0f} | seconds | MiB/s |\n|---|---|---|---|")
    for level in levels:
        took = seconds[level]
        rate = size / _MIB / max(took, 1e-9)
        print(f"| {level} | {stored[level] / _MIB:.1f} | {took:.1f} | {rate:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
