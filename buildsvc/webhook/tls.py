"""The TLS context that the webhook serves with; its certificate can be replaced while it serves."""

from __future__ import annotations

import os
import ssl

from buildsvc.webhook.certificates import Pair


class ServingContext:
    """A context for a server. Connections that are there keep the pair that they began with."""

    def __init__(self) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def use(self, pair: Pair) -> None:
        """Serve new connections with a pair. In the thread that serves: no connection may begin
        between certificate and key.
        """
        # OpenSSL reads files only; this one is in memory, and nobody else's.
        descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pair.key + pair.certificate)
            file.flush()
            self.context.load_cert_chain(f"/proc/self/fd/{descriptor}")
