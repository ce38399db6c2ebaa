"""What the webhook serves: reviews for the API server, over TLS, and pages for probes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from buildsvc.errors import EnvironmentUnfit
from buildsvc.log import get_logger
from buildsvc.webhook.injection import Injection, inject
from buildsvc.webhook.metrics import Metrics
from buildsvc.webhook.review import NoReview, Review, answer, parse_review
from buildsvc.webhook.template import TemplateFile

_log = get_logger(__name__)

#: Bytes of a review at most; the API server takes no larger object.
LARGEST_REVIEW = 4 << 20
#: Seconds that answers under way have at the end; the API server waits for no more than 30.
_LAST_ANSWERS = 10.0


class Reviews:
    """Answers reviews. It never says no, and a defect of ours is a warning of its own."""

    def __init__(self, template: TemplateFile, metrics: Metrics) -> None:
        self._template = template
        self._metrics = metrics
        #: Whether connections are to be closed with their next answer.
        self.draining = False

    def app(self) -> web.Application:
        """Return what serves reviews, at /inject."""
        app = web.Application(client_max_size=LARGEST_REVIEW)
        app.router.add_post("/inject", self.handle)
        return app

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one review."""
        begun = time.monotonic()
        body = await request.read()
        try:
            # In a thread: a pod may be some megabytes, and the template's file is looked at.
            outcome, document = await asyncio.to_thread(self._reviewed, body)
        except NoReview as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        self._metrics.reviewed(outcome, time.monotonic() - begun)
        response = web.json_response(document)
        if self.draining:
            response.force_close()
        return response

    def _reviewed(self, body: bytes) -> tuple[str, dict[str, Any]]:
        review = parse_review(body)
        if review.pod is None:
            return "other", answer(review.uid, None, Injection("not-asked"))
        outcome: str
        try:
            injection = inject(review.pod, self._template.current())
            document = answer(review.uid, review.pod, injection)
            outcome = injection.what
        except Exception:  # noqa: BLE001  a defect of ours must not become somebody's outage
            # Pods start without the sidecar then; an error would not be seen by who makes them.
            _log.exception("a pod could not be reviewed", **_who(review))
            reason = "the webhook failed; its log says why"
            return "failed", answer(review.uid, None, Injection("refused", reason=reason))
        if outcome != "not-asked":
            log = _log.warning if outcome == "refused" else _log.info
            log("reviewed a pod", outcome=outcome, reason=injection.reason, **_who(review))
        return outcome, document


def _who(review: Review) -> dict[str, object]:
    return {"namespace": review.namespace, "pod": review.name, "dry_run": review.dry_run}


class Pages:
    """Health, readiness and metrics; ``problem`` answers "" when the webhook is ready."""

    def __init__(self, metrics: Metrics, problem: Callable[[], str]) -> None:
        self._metrics = metrics
        self._problem = problem

    def app(self) -> web.Application:
        """Return what serves the pages."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._page_of_metrics)
        return app

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        problem = self._problem()
        return web.json_response(
            {"ready": not problem, "reason": problem}, status=503 if problem else 200
        )

    async def _page_of_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._metrics.registry),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )


@asynccontextmanager
async def served(
    app: web.Application, listener: socket.socket, context: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Serve on a bound socket; in the end, finish the answers under way and close it."""
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, shutdown_timeout=_LAST_ANSWERS
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that has the address, and does not listen yet. Raises EnvironmentUnfit."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # A predecessor's connections must not keep the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise EnvironmentUnfit(
            f"the webhook cannot listen on {host}, port {port}",
            expected="a free address",
            found=error.strerror or str(error),
            advice="choose others with --listen and --http-listen",
        ) from error
    return listener
