"""Stands for the agent: places leased blobs, answers nobody, and says on stdout what happens.

guarded_agent.py DIRECTORY COUNT MODE --guard-fd N
MODE: "half" writes half of a blob that somebody waits for, "serve" all of it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from sidecar.agent.guardlink import GuardLink
from sidecar.agent.leases import Blob, LeasedBlobs, break_time, probe

SIZE = 65536


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def main(directory: Path, count: int, mode: str, guard_fd: int) -> None:
    say("probe", await probe(directory))
    link = GuardLink(guard_fd)

    def on_break(digest: str) -> None:
        if mode == "serve":
            os.pwrite(blobs.descriptor(digest), b"x" * SIZE, 0)
            blobs.release(digest)
        else:
            os.pwrite(blobs.descriptor(digest), b"x" * (SIZE // 2), 0)
        say("broken", digest)

    blobs = LeasedBlobs(link, on_break, lambda reason: say("lost", reason), break_time=break_time())
    blobs.start()
    left = blobs.place(Blob(str(n), directory / str(n), SIZE, n) for n in range(count))
    say("placed", count - len(left))
    if (fifo := directory / "placed").exists():
        fifo.write_bytes(b"\n")
    await link.gone()
    say("guard-gone")


if __name__ == "__main__":
    where, number, how, option, descriptor = sys.argv[1:]
    assert option == "--guard-fd"
    asyncio.run(main(Path(where), int(number), how, int(descriptor)))
