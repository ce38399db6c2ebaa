"""Where the credentials for an address of Alibaba Cloud OSS are looked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc.errors import StoreRefused
from buildsvc.store.osscredentials import EnvironmentCredentials, FileCredentials
from buildsvc.store.ossroles import InstanceRole, ServiceAccountRole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildsvc.store.httpconnection import Call
    from buildsvc.store.ossaddress import OssAddress
    from buildsvc.store.osscredentials import Credentials, CredentialSource


class LookedUpCredentials:
    """Those of the source that ``credential_source`` finds, looked for with the first use.

    Without any, nothing is read or written: that is for who uses the store to learn, not for who
    opens it. A pod without a cache still builds.
    """

    def __init__(self, address: OssAddress, environ: Mapping[str, str]) -> None:
        self._address = address
        self._environ = environ
        self._source: CredentialSource | None = None

    @property
    def renews(self) -> bool:
        """See ``CredentialSource.renews``."""
        return self._source is not None and self._source.renews

    def fetch(self, call: Call, now: float) -> Credentials:
        """See ``CredentialSource.fetch``."""
        if self._source is None:
            self._source = credential_source(self._address, self._environ)
        return self._source.fetch(call, now)


def credential_source(address: OssAddress, environ: Mapping[str, str]) -> CredentialSource:
    """The source that the address names, or else the one that ``environ`` has variables for.

    In this order: a key, the OIDC token of a service account (RRSA), a credentials file. The role
    of an instance is never used unasked: whatever runs on the instance could use it as well.

    Raises:
        StoreRefused: there is none.
    """
    kind = address.credentials
    if kind is None:
        if any(environ.get(names[0]) for names in EnvironmentCredentials.NAMES):
            kind = "environment"
        elif environ.get("ALIBABA_CLOUD_OIDC_TOKEN_FILE"):
            kind = "oidc"
        elif environ.get("ALIBABA_CLOUD_CREDENTIALS_FILE"):
            kind = "file"
        else:
            raise StoreRefused(
                "there are no credentials for OSS",
                expected="OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET, the variables of RRSA, or "
                "ALIBABA_CLOUD_CREDENTIALS_FILE",
                advice="set them, or say credentials=ecs in the address for an instance's role",
            )
    if kind == "environment":
        return EnvironmentCredentials(environ)
    if kind == "file":
        path = environ.get("ALIBABA_CLOUD_CREDENTIALS_FILE")
        return FileCredentials(
            Path(path) if path else Path("~/.alibabacloud/credentials").expanduser(),
            environ.get("ALIBABA_CLOUD_PROFILE") or "default",
        )
    if kind == "ecs":
        return InstanceRole(environ.get("ALIBABA_CLOUD_ECS_METADATA", ""))
    return ServiceAccountRole.of(environ, address.region, internal=address.internal)
