"""Makes the client of an S3 bucket out of address, environment and time limits."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import S3Store as Client

from buildsvc.errors import ConfigError, StoreRefused
from buildsvc.store.s3address import S3_FORM
from buildsvc.store.s3credentials import find_credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from obstore.store import ClientConfig, S3Config

    from buildsvc.store.s3address import S3Address
    from buildsvc.store.timeouts import HttpTimeouts

KEPT = timedelta(seconds=15)
"""How long an unused connection is kept: firewalls forget longer ones without a word."""


def make_client(
    address: S3Address, timeouts: HttpTimeouts, environ: Mapping[str, str], *, reads: bool
) -> Client:
    """A client, which connects when it is used. Blocks: it may read files.

    One that ``reads`` gives up an answer that stands still for ``timeouts.idle``. The library
    counts the time in which a request's body is sent as if nothing were happening, so uploads
    need one that does not.

    Raises:
        StoreRefused: the environment's endpoint is no address, there are no credentials, the file
            of authorities cannot be read, or the client does not take what the environment says.
    """
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=timeouts.connect),
        "pool_idle_timeout": KEPT,
        "timeout": timedelta(seconds=timeouts.total),
        "user_agent": "buildsvc",
    }
    if reads:
        options["read_timeout"] = timedelta(seconds=timeouts.idle)
    config: S3Config = {
        "conditional_put": "etag",
        # One object is deleted by DELETE, which every server knows.
        "disable_bulk_delete": True,
        "region": _region(address, environ),
        "skip_signature": False,
        # The server checks the SHA-256 of each body, on every server and also without TLS.
        "unsigned_payload": False,
        "virtual_hosted_style_request": address.virtual,
    }
    if endpoint := _endpoint(address, environ):
        scheme, _, host = endpoint.partition("://")
        if address.virtual:
            endpoint = f"{scheme}://{address.bucket}.{host}"
        # Both, or the environment's would win.
        config["endpoint"] = config["aws_endpoint_url_s3"] = endpoint
        options["allow_http"] = scheme == "http"
    if authorities := environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = _read(Path(authorities))
    credentials = find_credentials(environ)
    try:
        return Client(
            address.bucket,
            config=config,
            client_options=options,
            # Tries again what failed in passing: RetryingStore, and nobody else.
            retry_config={"max_retries": 0},
            credential_provider=credentials,
        )
    except (BaseError, ValueError) as error:
        raise StoreRefused(
            "the settings of the S3 store do not go together",
            found=str(error).partition("\n")[0],
            advice="look at the variables that begin with AWS_",
        ) from error


def _region(address: S3Address, environ: Mapping[str, str]) -> str:
    return (
        address.region
        or environ.get("AWS_REGION")
        or environ.get("AWS_DEFAULT_REGION")
        or "us-east-1"
    )


def _endpoint(address: S3Address, environ: Mapping[str, str]) -> str | None:
    if address.endpoint:
        return address.endpoint
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if environ.get(name):
            try:
                return S3_FORM.endpoint(environ[name], name)
            except ConfigError as error:
                # Not of this address: who cannot have a cache builds without.
                raise StoreRefused(str(error)) from None
    return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreRefused(
            "the file of authorities cannot be read",
            expected="PEM in the file that AWS_CA_BUNDLE names",
            found=f"{error.strerror} at {path}",
        ) from error
