"""What the webhook has to do with the API server: one Secret, and one webhook configuration.

:class:`Cluster` is the seam; :class:`KubernetesCluster` speaks to a real one, through the low level
of Kubernetes' own client: its generated calls for all kinds of objects cost 30 MB more, and 0.7 s
of processor time at the start.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from buildsvc.errors import BuildsvcError, EnvironmentUnfit

#: Seconds that the API server has for an answer.
_TIMEOUT = 15.0
_MERGE_PATCH, _JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"

Json = dict[str, Any]


class ClusterError(BuildsvcError):
    """The API server did not do what was asked, or did not answer (EX_UNAVAILABLE)."""

    exit_code = 69


class Conflict(ClusterError):
    """Somebody else was faster: what was read is not what is there."""


class Missing(ClusterError):
    """There is no such object."""


@dataclass(frozen=True)
class Secret:
    """Data of a Secret, and the version of it that this is; "" where there is none yet."""

    version: str
    data: Mapping[str, bytes]


@dataclass(frozen=True)
class Trusting:
    """What a configuration's webhooks trust, in order, and which version of it says so."""

    version: str
    bundles: tuple[bytes, ...]


class Cluster(Protocol):
    """The calls that the certificate needs. Each raises ClusterError."""

    async def read_secret(self) -> Secret:
        """Return the newest Secret; one without a version where there is none."""

    async def write_secret(self, before: Secret, data: Mapping[str, bytes | None]) -> None:
        """Change or create the Secret; None removes an entry. Raises Conflict."""

    async def read_trusting(self) -> Trusting:
        """Return the newest configuration. Raises Missing."""

    async def write_trusting(self, before: Trusting, bundle: bytes) -> None:
        """Have all webhooks of the configuration trust a bundle. Raises Conflict."""


class KubernetesCluster:
    """The cluster of this pod, by its service account; use with ``async with``."""

    def __init__(self, client: ApiClient, namespace: str, secret: str, configuration: str) -> None:
        self._client = client
        self._secrets = f"/api/v1/namespaces/{namespace}/secrets"
        self._namespace = namespace
        self._secret = secret
        self._configuration = (
            f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{configuration}"
        )

    async def __aenter__(self) -> Self:
        """Return this."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._client.close()

    async def read_secret(self) -> Secret:
        """See Cluster."""
        try:
            found = await self._call("GET", f"{self._secrets}/{self._secret}")
        except Missing:
            return Secret("", {})
        data = {name: base64.b64decode(text) for name, text in (found.get("data") or {}).items()}
        return Secret(found["metadata"]["resourceVersion"], data)

    async def write_secret(self, before: Secret, data: Mapping[str, bytes | None]) -> None:
        """See Cluster."""
        written = {
            name: None if value is None else base64.b64encode(value).decode()
            for name, value in data.items()
        }
        if before.version:
            # Only the data: labels and annotations are those of who installed it.
            patch = {"metadata": {"resourceVersion": before.version}, "data": written}
            await self._call("PATCH", f"{self._secrets}/{self._secret}", patch, _MERGE_PATCH)
            return
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "metadata": {"name": self._secret, "namespace": self._namespace},
            "data": {name: text for name, text in written.items() if text is not None},
        }
        await self._call("POST", self._secrets, secret)

    async def read_trusting(self) -> Trusting:
        """See Cluster."""
        found = await self._call("GET", self._configuration)
        bundles = tuple(
            base64.b64decode(webhook["clientConfig"].get("caBundle") or "")
            for webhook in found.get("webhooks") or ()
        )
        return Trusting(found["metadata"]["resourceVersion"], bundles)

    async def write_trusting(self, before: Trusting, bundle: bytes) -> None:
        """See Cluster."""
        encoded = base64.b64encode(bundle).decode()
        # The version in it makes the API server refuse the patch where it has another one.
        patch = [{"op": "replace", "path": "/metadata/resourceVersion", "value": before.version}]
        patch += [
            {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": encoded}
            for index in range(len(before.bundles))
        ]
        await self._call("PATCH", self._configuration, patch, _JSON_PATCH)

    async def _call(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> Json:
        what = f"{method} {path}"
        try:
            request = await self._client.param_serialize(
                method,
                path,
                header_params={"Accept": "application/json", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*request, _request_timeout=_TIMEOUT)
            await response.read()
            found: Any = self._client.response_deserialize(response, {"2XX": "object"}).data
        except ApiException as error:
            raise _refusal(what, error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(
                f"{what}: the API server does not answer",
                found=str(error) or type(error).__name__,
            ) from error
        if not isinstance(found, dict):
            raise ClusterError(f"{what}: expected an object", found=type(found).__name__)
        return found


def _refusal(what: str, error: ApiException) -> ClusterError:
    kind = {404: Missing, 409: Conflict}.get(error.status or 0, ClusterError)
    advice = ""
    if error.status in (401, 403):
        advice = "give the service account the role of docs/injection.md"
    return kind(what, found=f"{error.status} {error.reason}", advice=advice)


async def connect(
    namespace: str, secret: str, configuration: str, kubeconfig: Path | None = None
) -> KubernetesCluster:
    """Return the cluster that this pod runs in, or that of a kubeconfig.

    Raises:
        EnvironmentUnfit: this is not a pod with a service account, or the file is no kubeconfig.
    """
    settings = Configuration()
    try:
        if kubeconfig is None:
            # It reads three small files.
            await asyncio.to_thread(load_incluster_config, settings)
        else:
            await load_kube_config(str(kubeconfig), client_configuration=settings)
    except ConfigException as error:
        raise EnvironmentUnfit(
            "the API server cannot be reached",
            expected="a pod with a service account, or --kubeconfig",
            found=str(error),
            advice="run the webhook in the cluster, with automountServiceAccountToken: true",
        ) from error
    client = await asyncio.to_thread(ApiClient, settings)
    return KubernetesCluster(client, namespace, secret, configuration)
