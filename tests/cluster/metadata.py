"""A metadata server as clouds have it, on its address, for as long as a test lasts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = "169.254.169.254"
_BRIDGE = "buildsvc0"
#: What only the server knows.
SECRET = "role-of-the-node"


@contextmanager
def served(directory: Path) -> Iterator[None]:
    """Answer on the address, which is one of the bridge's, and so of the pods' network."""
    page = directory / "latest/meta-data/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(SECRET)
    address = ("dev", _BRIDGE)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", *address], check=True)
    command = [sys.executable, "-u", "-m", "http.server", "80"]
    command += [f"--bind={ADDRESS}", f"--directory={directory}"]
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server:
            try:
                assert server.stdout is not None
                assert "Serving HTTP" in server.stdout.readline()
                yield
            finally:
                server.terminate()
    finally:
        subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", *address], check=True)
