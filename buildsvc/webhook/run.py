"""Puts the webhook together and runs it until it is told to end."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import AsyncExitStack

from buildsvc.log import get_logger
from buildsvc.webhook.certificates import Pair
from buildsvc.webhook.cluster import Cluster, connect
from buildsvc.webhook.metrics import Metrics
from buildsvc.webhook.rotation import CertificateKeeper
from buildsvc.webhook.server import Pages, Reviews, bound, served
from buildsvc.webhook.settings import Settings
from buildsvc.webhook.template import TemplateFile
from buildsvc.webhook.tls import ServingContext

_log = get_logger(__name__)


async def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises BuildsvcError at the start."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with bound(*settings.listen) as reviews, bound(*settings.http_listen) as pages:
        cluster = await connect(
            settings.own_namespace, settings.secret, settings.configuration, settings.kubeconfig
        )
        async with cluster:
            await Webhook(settings, cluster).serve(reviews, pages, stop)
    return 0


class Webhook:
    """One webhook, which serves reviews from its first certificate on."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._drain = settings.drain
        self._metrics = Metrics()
        self._template = TemplateFile(settings.template)
        self._reviews = Reviews(self._template, self._metrics)
        self._serving = ServingContext()
        self._has_pair = asyncio.Event()
        self._keeper = CertificateKeeper(
            cluster, settings.names, settings.lifetime, serve=self._serve, metrics=self._metrics
        )

    def problem(self) -> str:
        """Say why the API server should ask another replica; "" when it should ask this one."""
        return "it is ending" if self._reviews.draining else self._keeper.problem

    async def serve(
        self, reviews: socket.socket, pages: socket.socket, stop: asyncio.Event
    ) -> None:
        """Serve on bound sockets until ``stop``. Raises ConfigError for a wrong template."""
        await asyncio.to_thread(self._template.current)
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            await stack.enter_async_context(served(Pages(self._metrics, self.problem).app(), pages))
            keeping = tasks.create_task(self._keeper.run(), name="certificate")
            ending = tasks.create_task(stop.wait(), name="stop")
            first = tasks.create_task(self._has_pair.wait(), name="first pair")
            await asyncio.wait((ending, first), return_when=asyncio.FIRST_COMPLETED)
            if self._has_pair.is_set():
                context = self._serving.context
                await stack.enter_async_context(served(self._reviews.app(), reviews, context))
                _log.info("serve reviews", port=reviews.getsockname()[1])
                await ending
                # Whoever still believes that this replica is there gets an answer.
                self._reviews.draining = True
                await asyncio.sleep(self._drain)
            first.cancel()
            keeping.cancel()

    def _serve(self, pair: Pair) -> None:
        self._serving.use(pair)
        self._has_pair.set()
