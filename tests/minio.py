"""A real S3 server: MinIO, as an ordinary process on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidecar.certificates import make_certificates

BUCKET = "cache"
EMPTY_BUCKET = "empty"
KEY_ID = "buildsvc"
SECRET = "canary-of-the-store"
CREDENTIALS: Mapping[str, str] = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

#: Seconds after which it does not start any more.
_PATIENCE = 60.0
#: Starts, each on another port, after which it is not the port.
_STARTS = 5


@dataclass(frozen=True)
class Minio:
    """A server that answers, with two buckets and one user, who has ``CREDENTIALS``."""

    endpoint: str
    directory: Path

    @property
    def authorities(self) -> Path:
        """The file of the authority to trust, where it speaks TLS."""
        return self.directory / "certificates/ca.pem"

    @property
    def unfinished(self) -> list[Path]:
        """What uploads that did not end have left."""
        return list((self.directory / "data/.minio.sys/multipart").rglob("xl.meta"))

    def address(self, prefix: str = "", bucket: str = BUCKET) -> str:
        """Return the address of a store in it."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1"


@contextmanager
def running(directory: Path, *, tls: bool = False) -> Iterator[Minio]:
    """Serve from an empty directory; over TLS with an authority of its own."""
    program = shutil.which("minio")
    assert program is not None, "there is no program minio; run `make setup`"
    data = directory / "data"
    # A directory is a bucket.
    for bucket in (BUCKET, EMPTY_BUCKET):
        (data / bucket).mkdir(parents=True)
    options = [f"--certs-dir={_certificates(directory / 'certificates')}"] if tls else []
    environment = {
        "HOME": str(directory),
        "MINIO_ROOT_USER": KEY_ID,
        "MINIO_ROOT_PASSWORD": SECRET,
        # Nothing but the store: no web page, no look for a newer version.
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    log = directory / "minio.log"
    for _ in range(_STARTS):
        port = _free_port()
        with log.open("wb") as output:
            child = subprocess.Popen(
                [program, "server", f"--address=127.0.0.1:{port}", *options, str(data)],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            # Somebody else may have taken the port meanwhile.
            if _becomes_ready(child, log):
                yield Minio(f"{'https' if tls else 'http'}://127.0.0.1:{port}", directory)
                return
        finally:
            child.kill()
            child.wait()
    raise AssertionError(log.read_text())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _certificates(directory: Path) -> Path:
    made = make_certificates(directory, directory / "client")
    (directory / "public.crt").symlink_to(made.cert)
    (directory / "private.key").symlink_to(made.key)
    return directory


def _becomes_ready(child: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until it serves; False when it ends instead."""
    # It says so in its log, and to nobody else.
    end = time.monotonic() + _PATIENCE
    while b"\nAPI: " not in log.read_bytes():
        if child.poll() is not None:
            return False
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    return True
