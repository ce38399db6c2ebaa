"""Stands for buildkitd: opens blobs, in threads or in children, and says on stdout what it read.

opener.py DIRECTORY COUNT threads|children. Ignores SIGTERM when told to by the environment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

if "STUBBORN" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
where, count, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
os.write(
    1,
    "listen {} {} fds {}\n".format(
        os.environ.get("LISTEN_FDS"),
        int(os.environ.get("LISTEN_PID", "0")) == os.getpid(),
        ",".join(
            fd
            for fd in sorted(os.listdir("/proc/self/fd"), key=int)
            if os.path.exists(f"/proc/self/fd/{fd}")
        ),
    ).encode(),
)


def read(number: int) -> None:
    data = open(f"{where}/{number}", "rb").read()  # noqa: SIM115 - as short as can be
    zeros = data.count(0)
    os.write(1, f"opened {number} zeros {zeros} bytes {len(data)}\n".encode())


# Before the first of them can break a lease, of which this process may die.
os.write(1, b"opening\n")
for number in range(count):
    if how == "threads":
        threading.Thread(target=read, args=(number,), daemon=True).start()
    elif os.fork() == 0:
        # As a container does; its parent's death is not its own.
        os.setsid()
        read(number)
        signal.pause()
        os._exit(0)
signal.pause()
