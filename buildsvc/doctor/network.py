"""Checks of what the sidecar reaches, and of what should not be reached."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Mapping
from contextlib import suppress

from buildsvc.doctor.finding import Finding
from buildsvc.doctor.place import Place
from buildsvc.doctor.trials import Trials
from buildsvc.errors import BuildsvcError, ConfigError

_LISTEN = "127.0.0.1:1234"
#: Where clouds hand out the credentials of a machine, or of a pod.
METADATA: Mapping[str, tuple[str, int]] = {
    "169.254.169.254": ("169.254.169.254", 80),
    "100.100.100.200": ("100.100.100.200", 80),
}
#: Seconds for what is near, and for the store.
_NEAR, _FAR = 0.5, 15.0


def endpoint(place: Place, _trials: Trials) -> Finding:
    """The address where builds are served is free, or the sidecar's already."""
    listen = place.environ.get("BUILDSVC_LISTEN") or _LISTEN
    host, _, port = listen.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]").replace("localhost", "127.0.0.1")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return Finding(
                "endpoint", "warn", f"{listen} is in use: by the sidecar, if it runs here"
            )
        advice = "another address with --listen (BUILDSVC_LISTEN)"
        return Finding("endpoint", "fail", f"{listen}: {error}", advice)
    return Finding("endpoint", "ok", f"{listen} is free")


def metadata(place: Place, trials: Trials) -> Finding:
    """RUN steps on the pod's network reach what the pod reaches."""
    reached = [name for name, address in METADATA.items() if _connects(address)]
    if not reached:
        return Finding("cloud metadata", "ok", "not reachable from here")
    seen = f"{', '.join(reached)} can be reached"
    if not trials.tun and place.program("slirp4netns"):
        return Finding("cloud metadata", "ok", f"{seen}; RUN steps have a network without it")
    advice = (
        "RUN steps reach it too, and get the node's credentials: a NetworkPolicy (chart: "
        "networkPolicy.enabled), or a network of their own (cluster.kind tun)"
    )
    return Finding("cloud metadata", "warn", seen, advice)


def _connects(address: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=_NEAR):
        return True
    return False


def store(place: Place, _trials: Trials) -> Finding:
    """The store answers a list; `buildsvc store check` tries all the rest, and writes."""
    url = place.environ.get("BUILDSVC_STORE", "")
    if not url:
        advice = "chart: store.url; pod: BUILDSVC_STORE"
        return Finding("store", "warn", "none is set: builds have no cache", advice)
    from buildsvc.store.address import shown_address

    shown = shown_address(url)
    try:
        asyncio.run(_listed(url))
    except ConfigError as error:
        return Finding("store", "fail", f"{shown}: {error}", "the sidecar does not start with it")
    except (BuildsvcError, TimeoutError, OSError) as error:
        seen = f"{shown}: {str(error) or f'no answer in {_FAR:g} s'}"
        advice = "builds run without a cache; buildsvc store check tells more"
        return Finding("store", "warn", seen, advice)
    return Finding("store", "ok", f"{shown} answers")


async def _listed(url: str) -> None:
    from buildsvc.store.open import open_store

    store = open_store(url)
    try:
        async with asyncio.timeout(_FAR):
            # One object, if there is any: only that it answers counts.
            async for _ in store.list("keys/"):
                break
    finally:
        await store.close()
