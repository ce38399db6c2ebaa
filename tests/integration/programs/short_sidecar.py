"""Stands for a sidecar that is about to be killed: everything in its namespace writes to stdout.

short_sidecar.py ROOTLESSKIT DIRECTORY COUNT
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from sidecar.guardclient import Namespace
from sidecar.rootlesskit import NamespaceOptions

PROGRAMS = Path(__file__).parent


async def main(rootlesskit: str, directory: Path, count: str) -> None:
    options = NamespaceOptions(
        rootlesskit=rootlesskit,
        state_dir=directory / "state",
        log=directory / "log",
        network="host",
        environment=os.environ,
    )
    namespace = Namespace(options)
    await namespace.start()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]}
    blobs = str(directory / "blobs")
    agent = [sys.executable, str(PROGRAMS / "guarded_agent.py"), blobs, count, "half"]
    os.mkfifo(directory / "blobs" / "placed")
    await namespace.start_agent(agent, environment, log=1)
    await asyncio.to_thread((directory / "blobs" / "placed").read_bytes)
    opener = [sys.executable, "-I", "-S", str(PROGRAMS / "opener.py"), blobs, count, "children"]
    await namespace.start_daemon(opener, {}, nofsync=False, log=1)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
