"""The store as the sidecar uses it, and the keys that it looks under."""

from __future__ import annotations

import asyncio
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from buildsvc.cache.keys import CacheKey
from buildsvc.errors import ConfigError, EnvironmentUnfit
from buildsvc.store.address import uses_instance_role
from buildsvc.store.bandwidth import BandwidthLimitedStore
from buildsvc.store.contract import Store
from buildsvc.store.meter import MeteredStore, StoreUse
from buildsvc.store.open import open_store
from buildsvc.store.retry import RetryingStore
from sidecar.settings import Settings

#: Uploads at a time: packs are large, so few fill any network.
UPLOADS = 4
#: Small operations at a time beside downloads and uploads, such as those of a publication.
_OTHERS = 4
#: Seconds for ``buildkitd --version``.
_VERSION_WITHIN = 10.0
_VERSION = re.compile(r"\bv\d+\.\d+\.\d+\S*")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Keys:
    """Where to publish, and where to look, in order."""

    own: CacheKey
    fallbacks: tuple[CacheKey, ...]

    @property
    def all(self) -> tuple[CacheKey, ...]:
        """The own key first."""
        return (self.own, *self.fallbacks)


def this_platform() -> str:
    """Return the platform in containers' words, such as ``linux/amd64``."""
    machine = platform.machine()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


def cache_keys(settings: Settings, buildkit_version: str) -> Keys:
    """Return the keys of the settings, whose names are made already, for platform and daemon.

    Where other trust domains are read, fallbacks are theirs alone, and the own name is one of
    them: under other names the own domain has what builds of no more trust have left.

    Raises:
        ConfigError: a name cannot be part of a key.
    """

    def key(name: str, domain: str = settings.trust_domain) -> CacheKey:
        return CacheKey.make(
            tenant=settings.tenant,
            trust_domain=domain,
            name=name,
            platform=this_platform(),
            buildkit_version=buildkit_version,
        )

    fallbacks = [key(name) for name in settings.fallback_key]
    if domains := settings.read_domains:
        names = (settings.cache_key, *settings.fallback_key)
        fallbacks = [key(name, domain) for domain in domains for name in names]
    return Keys(key(settings.cache_key), tuple(fallbacks))


def check_role(settings: Settings, *, isolated: bool) -> None:
    """Refuse a machine's role where builds could have it too.

    ``isolated`` says that RUN steps have a network without the metadata addresses.

    Raises:
        ConfigError: the store is used with that role, and nobody has accepted the risk.
    """
    if isolated or settings.allow_instance_role or not uses_instance_role(settings.store):
        return
    raise ConfigError(
        "RUN steps of a build could take the role with which the store is used",
        expected="credentials that only the sidecar has, or RUN steps in a network of their own",
        found=f"credentials=ecs in the store's address, RUN steps on the host's network "
        f"(network {settings.network}: {settings.origin('network')})",
        advice="give this pod /dev/net/tun, or use RRSA (credentials=oidc), or "
        "--allow-instance-role if every build may do with the store what the role may",
    )


def cache_store(settings: Settings, use: StoreUse) -> Store:
    """Return the store of the settings; passing failures are retried here and nowhere else.

    What is sent to the store, retries among it, is entered into ``use``. How many operations
    run at a time is bounded by who asks: downloads wait for a slot in the order of their
    urgency, which a limit of the store would undo.

    Raises:
        ConfigError: its address is of no known kind.
    """
    connections = settings.download_concurrency + UPLOADS + _OTHERS
    store = RetryingStore(MeteredStore(open_store(settings.store, connections=connections), use))
    if settings.upload_limit is None:
        return store
    return BandwidthLimitedStore(store, settings.upload_limit)


async def buildkit_version(program: Path) -> str:
    """Ask the program for its version, such as ``v0.33.1``.

    Raises:
        EnvironmentUnfit: it does not run or does not say.
    """
    try:
        async with asyncio.timeout(_VERSION_WITHIN):
            said = await _output(program)
    except (OSError, TimeoutError) as problem:
        raise EnvironmentUnfit(
            f"{program} does not run",
            expected=f"its version within {_VERSION_WITHIN:g} s",
            found=str(problem) or "no answer",
            advice="name another program with --buildkitd",
        ) from problem
    found = _VERSION.search(said.decode(errors="replace"))
    if found is None:
        raise EnvironmentUnfit(
            f"{program} does not say its version",
            expected="a line with a version such as v0.33.1",
            found=repr(said[:80]),
            advice="name another program with --buildkitd",
        )
    return found.group()


async def _output(program: Path) -> bytes:
    child = await asyncio.create_subprocess_exec(
        program,
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        return (await child.communicate())[0]
    finally:
        # Nobody may want to know any more, such as at the end of a sidecar that cannot start.
        if child.returncode is None:
            child.kill()
            await child.wait()
