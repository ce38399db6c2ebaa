"""Credentials of a RAM role, which end and are asked for anew; blocking, for threads."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from buildsvc.errors import StoreRefused, StoreUnavailable
from buildsvc.store.httpbody import read_document
from buildsvc.store.httpconnection import Origin
from buildsvc.store.httpexchange import Exchanges, Request
from buildsvc.store.httpstatus import is_passing
from buildsvc.store.osscredentials import Credentials
from buildsvc.store.timeouts import HttpTimeouts
from buildsvc.store.uploads import BytesUpload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from buildsvc.store.httpconnection import Call

METADATA_SERVER = "http://100.100.100.200"

EARLY = 600.0
"""Credentials are renewed this many seconds before they end, or in the middle of a shorter life."""

_TIMEOUTS = HttpTimeouts(total=10.0, connect=2.0, idle=5.0)
_OK = frozenset({200})
_LIMIT = 256 << 10
_ROLE = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_TOKEN_SECONDS = 300
_CODE = re.compile(r"[A-Za-z0-9._-]{1,80}")
# https://www.alibabacloud.com/help/en/ram/developer-reference/api-sts-2015-04-01-assumerolewithoidc
_MAX_TOKEN = 20_000


class InstanceRole:
    """The RAM role of the ECS instance, from its metadata server in hardened mode.

    As in https://www.alibabacloud.com/help/en/ecs/user-guide/obtain-a-temporary-authorization-token:
    a PUT gives a token, without which nothing is asked. ``role`` is its name; empty: the server
    is asked for it.
    """

    def __init__(self, role: str = "", server: str = METADATA_SERVER) -> None:
        if role and not _ROLE.fullmatch(role):
            raise StoreRefused("not the name of a RAM role", expected="ALIBABA_CLOUD_ECS_METADATA")
        self._role = role
        self._origin = Origin.of(server)

    @property
    def renews(self) -> bool:
        """See ``CredentialSource.renews``."""
        return True

    def fetch(self, call: Call, now: float) -> Credentials:
        """See ``CredentialSource.fetch``."""
        with closing(Exchanges(self._origin, _TIMEOUTS)) as server:
            ttl = {"X-aliyun-ecs-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            token = _metadata(server, "PUT", "latest/api/token", ttl, call)
            proof = {"X-aliyun-ecs-metadata-token": token}
            path = "latest/meta-data/ram/security-credentials/"
            role = self._role or _metadata(server, "GET", path, proof, call)
            if not _ROLE.fullmatch(role):
                raise StoreRefused("the metadata server does not give the name of one RAM role")
            found = _document(_metadata(server, "GET", path + role, proof, call))
        if found.get("Code") != "Success":
            raise StoreRefused(
                f"the metadata server has no credentials for the RAM role {role}",
                expected="Code Success",
                found=_code(found.get("Code")),
            )
        return _credentials(found, now, "the metadata server")


class ServiceAccountRole:
    """The RAM role of a Kubernetes service account (RRSA), by AssumeRoleWithOIDC.

    The token is read from its file each time: the kubelet exchanges it.
    """

    def __init__(
        self, role: str, provider: str, token_file: Path, session: str, *, server: str
    ) -> None:
        self._role = role
        self._provider = provider
        self._token_file = token_file
        self._session = session
        self._origin = Origin.of(server)

    @classmethod
    def of(cls, environ: Mapping[str, str], region: str, *, internal: bool) -> ServiceAccountRole:
        """The role in the variables that ack-pod-identity-webhook sets; raises ``StoreRefused``."""
        names = ("ROLE_ARN", "OIDC_PROVIDER_ARN", "OIDC_TOKEN_FILE")
        role, provider, token_file = (environ.get(f"ALIBABA_CLOUD_{name}", "") for name in names)
        if not role or not provider or not token_file:
            raise StoreRefused(
                "the environment does not name a service account's RAM role",
                expected=", ".join(f"ALIBABA_CLOUD_{name}" for name in names),
                advice="have RRSA set them for the pod",
            )
        return cls(
            role,
            provider,
            Path(token_file),
            environ.get("ALIBABA_CLOUD_ROLE_SESSION_NAME") or "buildsvc",
            server=f"https://sts{'-vpc' if internal else ''}.{region}.aliyuncs.com",
        )

    @property
    def renews(self) -> bool:
        """See ``CredentialSource.renews``."""
        return True

    def fetch(self, call: Call, now: float) -> Credentials:
        """See ``CredentialSource.fetch``."""
        # All in the body: what is in an URL ends in servers' logs.
        form = {
            "Action": "AssumeRoleWithOIDC",
            "Version": "2015-04-01",
            "Format": "JSON",
            "Timestamp": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "RoleArn": self._role,
            "OIDCProviderArn": self._provider,
            "OIDCToken": self._token(),
            "RoleSessionName": self._session,
        }
        request = Request(
            "POST",
            "",
            _OK,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=BytesUpload(urlencode(form).encode()),
            reads_errors=True,
        )
        with (
            closing(Exchanges(self._origin, _TIMEOUTS)) as server,
            server.ask(request, call) as answer,
        ):
            found = _document(
                read_document(answer, "AssumeRoleWithOIDC", _LIMIT).decode(errors="replace")
            )
            code = _code(found.get("Code"))
            if is_passing(answer.status) or code.startswith("Throttling"):
                raise StoreUnavailable("STS failed", found=f"HTTP {answer.status} {code}")
            if answer.status != 200:
                raise StoreRefused(
                    f"STS does not let {self._session} take the role {self._role}",
                    found=f"HTTP {answer.status} {code}",
                    advice="look at the role's trust policy and at the OIDC provider",
                )
        inner = found.get("Credentials")
        return _credentials(inner if isinstance(inner, dict) else {}, now, "STS")

    def _token(self) -> str:
        try:
            token = self._token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreRefused(
                f"the service account's token cannot be read from {self._token_file}",
                found=type(error).__name__,
            ) from None
        if not 4 <= len(token) <= _MAX_TOKEN:
            raise StoreRefused(f"there is no OIDC token in {self._token_file}")
        return token


def _metadata(
    server: Exchanges, method: str, path: str, headers: Mapping[str, str], call: Call
) -> str:
    request = Request(method, path, _OK, headers=headers, reads_errors=True)
    with server.ask(request, call) as answer:
        text = read_document(answer, path, _LIMIT).decode(errors="replace").strip()
        if answer.status == 200 and text:
            return text
        found = f"HTTP {answer.status} for {path}"
        if is_passing(answer.status):
            raise StoreUnavailable("the metadata server failed", found=found)
        raise StoreRefused(
            "the metadata server gives no credentials",
            found=found,
            advice="attach a RAM role to the instance, and let pods reach its metadata",
        )


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    # Not repeated in a text: it may be cut-off credentials.
    return found if isinstance(found, dict) else {}


def _credentials(found: Mapping[str, Any], now: float, who: str) -> Credentials:
    key_id, secret, token, ends = (
        found.get(name)
        for name in ("AccessKeyId", "AccessKeySecret", "SecurityToken", "Expiration")
    )
    if not (
        isinstance(key_id, str)
        and isinstance(secret, str)
        and isinstance(token, str)
        and isinstance(ends, str)
        and key_id
        and secret
        and token
    ):
        raise StoreUnavailable(f"{who} gave no credentials", expected="a document that has them")
    try:
        end = datetime.strptime(ends, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise StoreUnavailable(f"{who} gave credentials without a time at which they end") from None
    if end <= now:
        raise StoreUnavailable(
            f"{who} gave credentials that have ended",
            advice="look at the clocks if this goes on",
        )
    return Credentials(key_id, secret, token, renew=end - min(EARLY, (end - now) / 2), ends=end)


def _code(value: object) -> str:
    return value if isinstance(value, str) and _CODE.fullmatch(value) else ""
