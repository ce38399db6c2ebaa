"""A real S3 server: MinIO, as an ordinary process on an address of this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from perf.host import PerfError, free_port
from perf.services import minio
from sidecar.certificates import make_certificates

BUCKET = "cache"
EMPTY_BUCKET = "empty"
KEY_ID = "buildsvc"
SECRET = "canary-of-the-store"
CREDENTIALS: Mapping[str, str] = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

#: Seconds in which it answers a request.
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

    def session(self, policy: Mapping[str, object]) -> Mapping[str, str]:
        """Return credentials for as much as the policy allows, as for the environment.

        https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html, for which MinIO
        needs no role.
        """
        form = {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "Policy": json.dumps(policy, separators=(",", ":")),
        }
        request = _signed(f"{self.endpoint}/", urlencode(form).encode())
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            document = answer.read().decode()
        names = {
            "AWS_ACCESS_KEY_ID": "AccessKeyId",
            "AWS_SECRET_ACCESS_KEY": "SecretAccessKey",
            "AWS_SESSION_TOKEN": "SessionToken",
        }
        found = {
            name: re.search(f"<{element}>([^<]+)<", document) for name, element in names.items()
        }
        return {name: match[1] for name, match in found.items() if match}

    def address(self, prefix: str = "", bucket: str = BUCKET) -> str:
        """Return the address of a store in it."""
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1"


@contextmanager
def running(directory: Path, *, tls: bool = False, address: str = "127.0.0.1") -> Iterator[Minio]:
    """Serve from an empty directory; over TLS with an authority of its own."""
    data = directory / "data"
    for bucket in (BUCKET, EMPTY_BUCKET):
        (data / bucket).mkdir(parents=True)
    options = [f"--certs-dir={_certificates(directory / 'certificates')}"] if tls else []
    with ExitStack() as stack:
        listen = _served(stack, data, directory / "minio.log", options, address)
        yield Minio(f"{'https' if tls else 'http'}://{listen}", directory)


def _served(stack: ExitStack, data: Path, log: Path, options: Sequence[str], address: str) -> str:
    left = _STARTS
    while True:
        listen = f"{address}:{free_port(address)}"
        try:
            stack.enter_context(minio(data, log, listen, (KEY_ID, SECRET), options=options))
        except PerfError:
            # Somebody else may have taken the port meanwhile.
            left -= 1
            if not left:
                raise
        else:
            return listen


def _signed(url: str, body: bytes) -> urllib.request.Request:
    """Return a POST to the token service.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "host": url.split("/")[2],
        "x-amz-content-sha256": digest,
        "x-amz-date": now,
    }
    names = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    canonical = "\n".join(["POST", "/", "", *lines, "", names, digest])
    scope = f"{now[:8]}/us-east-1/sts/aws4_request"
    text = "\n".join(
        ["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()]
    )
    key = f"AWS4{SECRET}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )
    return urllib.request.Request(url, body, headers)


def _certificates(directory: Path) -> Path:
    made = make_certificates(directory, directory / "client")
    (directory / "public.crt").symlink_to(made.cert)
    (directory / "private.key").symlink_to(made.key)
    return directory
