"""The keys that this sidecar signs heads with, and those whose heads it reads."""

from __future__ import annotations

from dataclasses import dataclass

from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.signing import SigningKey, VerifyKeys
from buildsvc.errors import ConfigError
from buildsvc.store.contract import Store
from sidecar.settings import Settings


@dataclass(frozen=True)
class Trust:
    """Without verify keys every head is read, without a signing key none is signed."""

    signing: SigningKey | None = None
    verify: VerifyKeys | None = None

    def log(self, store: Store, key: CacheKey) -> GenerationLog:
        """Return the log of a key, as this sidecar reads and continues it."""
        return GenerationLog(store, key, signing=self.signing, verify=self.verify)


def read_trust(settings: Settings) -> Trust:
    """Read the keys that the settings name. Blocks.

    Raises:
        ConfigError: a file is none of a key, or this sidecar could not read what it publishes.
    """
    publishes = settings.publish != "never"
    signing: SigningKey | None = None
    if settings.signing_key is not None and publishes:
        signing = SigningKey.read(settings.signing_key)
    if not settings.verify_key:
        return Trust(signing)
    verify = VerifyKeys.read(settings.verify_keys)
    for name in (settings.trust_domain, *settings.read_domains):
        domain = f"{settings.tenant}/{name}"
        if not verify.ids(settings.tenant, name):
            raise ConfigError(
                f"no generation of {domain} could be read",
                expected=f"a verify key for {domain}",
                found=f"keys for {', '.join(verify.domains)}",
                advice=f"add --verify-key {domain}=FILE, or look at --tenant, --trust-domain and "
                "--read-domain",
            )
    ids = verify.ids(settings.tenant, settings.trust_domain)
    domain = f"{settings.tenant}/{settings.trust_domain}"
    if publishes and (signing is None or signing.id not in ids):
        found = "no --signing-key" if signing is None else f"a --signing-key with id {signing.id}"
        raise ConfigError(
            f"no reader with these verify keys would take what is published to {domain}",
            expected=f"a --signing-key whose id is {' or '.join(ids)}",
            found=found,
            advice="sign with the private key of one of them, add the public key to --verify-key, "
            "or say --publish never",
        )
    return Trust(signing, verify)
