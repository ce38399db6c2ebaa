"""A stand-in for an API server: Secrets and webhook configurations, with resource versions."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import ApiClient, Configuration

from buildsvc.webhook.cluster import KubernetesCluster

Json = dict[str, Any]

SECRET, CONFIGURATION = "buildsvc-webhook-tls", "buildsvc-webhook"
TOKEN = "bearer of-the-service-account"


class ApiServer:
    """Objects by path. ``refuse`` answers a status instead, to what it says True of."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], int] = lambda _method, _path: 0
        self._versions = itertools.count(1)

    def put(self, path: str, of: Json) -> None:
        """Store an object as a new version."""
        stored = copy.deepcopy(of)
        stored.setdefault("metadata", {})["resourceVersion"] = str(next(self._versions))
        self.objects[path] = stored

    @property
    def secret(self) -> Json:
        return self.objects[f"/api/v1/namespaces/ci/secrets/{SECRET}"]

    @property
    def configuration(self) -> Json:
        return self.objects[CONFIGURATIONS + CONFIGURATION]

    def install(self, webhooks: int = 1) -> None:
        """Store the configuration as a chart does: nobody is trusted yet."""
        one = {"name": "inject.buildsvc.io", "clientConfig": {"service": {"name": "x"}}}
        self.put(CONFIGURATIONS + CONFIGURATION, {"webhooks": [copy.deepcopy(one)] * webhooks})

    async def handle(self, request: web.Request) -> web.Response:
        method, path = request.method, request.path
        self.requests.append((method, path))
        if status := self.refuse(method, path):
            return _status(status)
        if request.headers.get("authorization") != TOKEN:
            return _status(401)
        body: Any = await request.json() if request.can_read_body else None
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return _status(409)
            self.put(path, body)
        elif path not in self.objects:
            return _status(404)
        elif method == "PATCH":
            changed = _patched(self.objects[path], body, request.content_type)
            if changed["metadata"]["resourceVersion"] != self._version(path):
                return _status(409)
            self.put(path, changed)
        return web.json_response(self.objects[path])

    def _version(self, path: str) -> str:
        return str(self.objects[path]["metadata"]["resourceVersion"])


CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"


def _status(code: int) -> web.Response:
    return web.json_response({"kind": "Status", "code": code}, status=code)


def _patched(before: Json, patch: Any, kind: str) -> Json:
    if kind == "application/merge-patch+json":
        return dict(_merged(before, patch))
    assert kind == "application/json-patch+json"
    after = copy.deepcopy(before)
    for operation in patch:
        *way, last = operation["path"].split("/")[1:]
        at: Any = after
        for name in way:
            at = at[int(name)] if isinstance(at, list) else at[name]
        assert operation["op"] == "add" or last in at
        at[last] = operation["value"]
    return after


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    after = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = _merged(after.get(name), value)
    return json.loads(json.dumps(after))


@asynccontextmanager
async def connected(server: ApiServer) -> AsyncIterator[KubernetesCluster]:
    """Serve it, and give the client of one replica."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app) as listening:
        settings = Configuration(host=str(listening.make_url("")).rstrip("/"))
        settings.api_key["BearerToken"] = TOKEN
        client = ApiClient(settings)
        async with KubernetesCluster(client, "ci", SECRET, CONFIGURATION) as cluster:
            yield cluster
