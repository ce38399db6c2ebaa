"""Where credentials of RAM roles come from: an instance's metadata server, and STS."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from tests.ossserver.server import Key

if TYPE_CHECKING:
    from collections.abc import Callable

ROLE = "builder-role"
PROVIDER_ARN = "acs:ram::123:oidc-provider/ack-rrsa"
ROLE_ARN = "acs:ram::123:role/builder-role"


@dataclass
class Identities:
    """Gives out keys that hold for ``life`` seconds, into ``keys``.

    ``status`` other than 200 is answered instead. ``token`` is what the service account has.
    """

    keys: dict[str, Key]
    life: float = 3600.0
    status: int = 200
    token: str = "header.payload.signature+/="
    clock: Callable[[], float] = time.time
    given: list[Key] = field(default_factory=list)
    _tokens: dict[str, float] = field(default_factory=dict)

    def metadata(self) -> web.Application:
        """The metadata server of an instance that demands the hardened mode.

        https://www.alibabacloud.com/help/en/ecs/user-guide/view-instance-metadata and
        obtain-a-temporary-authorization-token beside it.
        """
        application = web.Application()
        path = "/latest/meta-data/ram/security-credentials/"
        application.router.add_put("/latest/api/token", self._metadata_token)
        application.router.add_get(path, self._role)
        application.router.add_get(path + "{role}", self._instance)
        return application

    def sts(self) -> web.Application:
        """https://www.alibabacloud.com/help/en/ram/developer-reference/api-sts-2015-04-01-assumerolewithoidc"""
        application = web.Application()
        application.router.add_post("/", self._assume)
        return application

    async def _metadata_token(self, request: web.Request) -> web.Response:
        ttl = request.headers.get("X-aliyun-ecs-metadata-token-ttl-seconds", "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            return web.Response(status=400)
        token = secrets.token_urlsafe(24)
        self._tokens[token] = self.clock() + int(ttl)
        return web.Response(text=token)

    def _proven(self, request: web.Request) -> bool:
        token = request.headers.get("X-aliyun-ecs-metadata-token", "")
        return self._tokens.get(token, 0.0) > self.clock()

    async def _role(self, request: web.Request) -> web.Response:
        if not self._proven(request):
            return web.Response(status=403)
        return web.Response(text=f"{ROLE}\n")

    async def _instance(self, request: web.Request) -> web.Response:
        if not self._proven(request):
            return web.Response(status=403)
        if self.status != 200:
            return web.Response(status=self.status)
        if request.match_info["role"] != ROLE:
            return web.Response(status=404)
        return web.json_response({"Code": "Success", "LastUpdated": "", **self._new()})

    async def _assume(self, request: web.Request) -> web.Response:
        form = await request.post()
        if request.query or request.content_type != "application/x-www-form-urlencoded":
            return web.json_response({"Code": "MissingAction"}, status=400)
        if self.status != 200:
            return web.json_response(
                {"Code": "InternalError", "Message": f"not now: {form['OIDCToken']!r}"},
                status=self.status,
            )
        wanted = {
            "Action": "AssumeRoleWithOIDC",
            "Version": "2015-04-01",
            "Format": "JSON",
            "RoleArn": ROLE_ARN,
            "OIDCProviderArn": PROVIDER_ARN,
        }
        if any(form.get(name) != value for name, value in wanted.items()):
            return web.json_response({"Code": "InvalidParameter"}, status=400)
        if not 2 <= len(str(form.get("RoleSessionName"))) <= 64 or "Timestamp" not in form:
            return web.json_response({"Code": "InvalidParameter.RoleSessionName"}, status=400)
        if form.get("OIDCToken") != self.token:
            return web.json_response({"Code": "AuthenticationFail.OIDCToken.Invalid"}, status=400)
        return web.json_response({"RequestId": "1", "Credentials": self._new()})

    def _new(self) -> dict[str, str]:
        number = len(self.given)
        ends = float(int(self.clock() + self.life))
        key = Key(f"STS.{number}", f"secret-{secrets.token_hex(8)}", secrets.token_hex(30), ends)
        self.given.append(key)
        self.keys[key.key_id] = key
        return {
            "AccessKeyId": key.key_id,
            "AccessKeySecret": key.secret,
            "SecurityToken": key.token,
            "Expiration": datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
