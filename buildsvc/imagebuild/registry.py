"""A small client of a registry: which digest a name has there.

The protocol: https://github.com/opencontainers/distribution-spec (spec.md), its authentication:
https://distribution.github.io/distribution/spec/auth/token/
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit

from buildsvc.errors import ConfigError
from buildsvc.imagebuild.dockerconfig import Credential
from buildsvc.imagebuild.errors import RegistryRefused, RegistryUnavailable
from buildsvc.imagebuild.names import DOCKER_HUB

_SECONDS = 10.0
#: Bytes of a manifest or token that are read at most.
_LARGEST = 8 << 20
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_CHALLENGE = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


Redirected = urllib.request.Request | None


class Registry(Protocol):
    """Where images are."""

    async def digest(self, path: str, reference: str) -> str | None:
        """Return the digest of the manifest that a tag or digest names; None if there is none.

        Raises:
            RegistryUnavailable: it gave no usable answer; trying again may help.
            RegistryRefused: it does not accept the credentials, or gives them no right.
            ConfigError: its certificate is not one of a known authority.
        """


class HttpRegistry:
    """The registry on ``host`` (and port)."""

    def __init__(
        self, host: str, credential: Credential, *, authority: Path | None, insecure: bool
    ) -> None:
        self._host = host
        self._credential = credential
        self._insecure = insecure
        self._authority = authority
        server = "registry-1.docker.io" if host == DOCKER_HUB else host
        schemes = ("https", "http") if insecure or _is_local(server) else ("https",)
        self._bases = [f"{scheme}://{server}/v2/" for scheme in schemes]
        self._authorization = ""
        self._opener: urllib.request.OpenerDirector | None = None

    async def digest(self, path: str, reference: str) -> str | None:
        """See :class:`Registry`."""
        return await asyncio.to_thread(self._digest, path, reference)

    def _digest(self, path: str, reference: str) -> str | None:
        name = f"{path}/manifests/{quote(reference, safe=':')}"
        status, headers, _ = self._asked("HEAD", name, path)
        if status == 200 and not headers.get("Docker-Content-Digest"):
            # The header is not required by the specification.
            status, headers, body = self._asked("GET", name, path)
            return f"sha256:{hashlib.sha256(body).hexdigest()}" if status == 200 else None
        return str(headers["Docker-Content-Digest"]) if status == 200 else None

    def _asked(self, method: str, name: str, path: str) -> tuple[int, Message, bytes]:
        """Ask, once more with what the registry wants to be shown; return 200 or 404."""
        status, headers, body = self._anywhere(method, name)
        if status == 401:
            self._authorization = self._answer(headers.get("WWW-Authenticate", ""), path)
            status, headers, body = self._anywhere(method, name)
        if status in (401, 403):
            raise RegistryRefused(
                f"{self._host} does not show {path}",
                expected="credentials that may pull from the repository",
                found=f"HTTP {status} for {self._credential.user or 'a client without a name'}",
                advice="give the credentials the right to pull, or set --verify=off",
            )
        if status not in (200, 404):
            raise RegistryUnavailable(f"{self._host} gave no usable answer", found=f"HTTP {status}")
        return status, headers, body

    def _anywhere(self, method: str, name: str) -> tuple[int, Message, bytes]:
        problem: RegistryUnavailable | ConfigError | None = None
        for base in self._bases:
            headers = {"Accept": _MANIFESTS}
            if self._authorization:
                headers["Authorization"] = self._authorization
            request = _request(base + name, headers=headers, method=method)
            try:
                answer = self._exchange(request)
            except (RegistryUnavailable, ConfigError) as error:
                problem = problem or error
            else:
                self._bases = [base]
                return answer
        assert problem is not None
        raise problem

    def _answer(self, challenge: str, path: str) -> str:
        """Return the Authorization that a challenge asks for."""
        kind, _, rest = challenge.partition(" ")
        given = self._credential
        basic = "Basic " + base64.b64encode(f"{given.user}:{given.password}".encode()).decode()
        if kind.lower() == "basic":
            return basic if given.user else ""
        fields = dict(_CHALLENGE.findall(rest))
        realm = fields.get("realm", "")
        if kind.lower() != "bearer" or urlsplit(realm).scheme not in ("https", "http"):
            raise RegistryUnavailable(
                f"{self._host} asks for credentials in an unknown way",
                expected="Basic or Bearer",
                found=challenge[:100] or "nothing",
            )
        asked = {"service": fields.get("service", ""), "scope": f"repository:{path}:pull"}
        if given.token:
            more = {"grant_type": "refresh_token", "client_id": "buildsvc"}
            body = urlencode({**asked, **more, "refresh_token": given.token}).encode()
            request = _request(realm, data=body, method="POST")
        else:
            request = _request(f"{realm}?{urlencode(asked)}")
            if given.user:
                request.add_header("Authorization", basic)
        return f"Bearer {self._token(request)}"

    def _token(self, request: urllib.request.Request) -> str:
        status, _, body = self._exchange(request)
        if status in (400, 401, 403):
            raise RegistryRefused(
                f"{self._host} hands out no token",
                expected="credentials that it knows",
                found=f"HTTP {status} of {request.host}",
                advice="look at the credentials that the options name",
            )
        try:
            said = json.loads(body)
            return str(said.get("token") or said["access_token"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RegistryUnavailable(
                f"{self._host} hands out no token", found=f"HTTP {status} of {request.host}"
            ) from None

    def _exchange(self, request: urllib.request.Request) -> tuple[int, Message, bytes]:
        try:
            with self._opened().open(request, timeout=_SECONDS) as answer:
                return answer.status, answer.headers, answer.read(_LARGEST)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, b""
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise self._unknown_authority(reason) from error
            advice = ""
            if isinstance(reason, ssl.SSLError):
                advice = "set --registry-insecure if it speaks plain HTTP"
            raise RegistryUnavailable(
                f"{self._host} cannot be reached", found=str(reason), advice=advice
            ) from error

    def _unknown_authority(self, reason: ssl.SSLCertVerificationError) -> ConfigError:
        return ConfigError(
            f"the certificate of {self._host} cannot be checked",
            expected="one of a known authority",
            found=reason.verify_message,
            advice="set --registry-ca; the sidecar needs the authority too, in its buildkitd.toml",
        )

    def _opened(self) -> urllib.request.OpenerDirector:
        if self._opener is None:
            context = ssl.create_default_context()
            if self._authority is not None:
                context.load_verify_locations(self._authority)
            if self._insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._opener = urllib.request.build_opener(
                urllib.request.HTTPSHandler(context=context), _NoCredentialsElsewhere()
            )
        return self._opener


class _NoCredentialsElsewhere(urllib.request.HTTPRedirectHandler):
    """Follows redirections, without the Authorization on another host."""

    def redirect_request(self, req: urllib.request.Request, *told: Any) -> Redirected:  # noqa: ANN401  the base's
        """See the base class."""
        request = super().redirect_request(req, *told)
        if request is not None and request.host != req.host:
            request.remove_header("Authorization")
        return request


def _request(
    url: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None,
    method: str = "GET",
) -> urllib.request.Request:  # fmt: skip
    # Only http and https come here: our own bases, and a realm whose scheme was looked at.
    return urllib.request.Request(url, data=data, headers=dict(headers or {}), method=method)  # noqa: S310


def _is_local(server: str) -> bool:
    """Whether BuildKit tries plain HTTP there without being told."""
    name = server.rpartition(":")[0] or server
    return name == "localhost" or name.startswith("127.") or name == "[::1]"
