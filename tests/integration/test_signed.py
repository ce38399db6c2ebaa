"""Readers with verify keys: a pod starts from what its domain's publishers signed, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from buildsvc.cache.signing import SigningKey
from tests.integration.contexts import BASE, context
from tests.integration.sidecars import pod
from tests.integration.stored import Stored

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

SCOPE = "default/default"


def write_keys(directory: Path) -> tuple[Path, Path]:
    private = Ed25519PrivateKey.generate()
    signing, verify = directory / "signing.key", directory / "verify.pem"
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    info = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signing.write_bytes(private.private_bytes(*plain))
    verify.write_bytes(private.public_key().public_bytes(*info))
    return signing, verify


def forge(store: Stored, key: SigningKey | None) -> None:
    """Add a head that offers the newest generation's root as a newer one."""
    newest = store.heads[-1]
    head = store.head(len(store.heads))
    head.number += 1
    head.ClearField("signature")
    raw = head.SerializeToString() if key is None else key.sign(head)
    newest.with_name(f"{head.number:020d}").write_bytes(raw)


async def test_a_pod_goes_past_forged_heads_to_the_signed_one(directory: Path) -> None:
    signing, verify = write_keys(directory)
    source = context(directory / "context", BASE + "COPY f /f\nRUN cat /f > /g\n", {"f": "1\n"})
    store = Stored(directory / "store")
    flags = (f"--store={store.directory}", f"--verify-key={SCOPE}={verify}")
    async with pod(directory / "one", *flags, f"--signing-key={signing}") as one:
        await one.build(source)
        await one.published(1)
        assert await one.stop() == 0

    forge(store, None)
    forge(store, SigningKey(Ed25519PrivateKey.generate()))
    pages = "--http-listen=127.0.0.1:0"
    async with pod(directory / "two", *flags, f"--signing-key={signing}", pages) as two:
        state = await two.status()
        assert state["restored"]["number"] == 1
        assert "generation 3 of default cannot be used" in state["restored"]["because"]
        assert state["by"]["passed_over"] == {"untrusted": 2}
        assert await two.metric("buildsvc_sidecar_passed_over_total") == 2
        assert (await two.build(source)).ran == []
        # What it publishes comes after the forged ones.
        await two.published(4)
        assert await two.stop() == 0

    async with pod(directory / "three", *flags, "--publish=never") as three:
        restored = (await three.status())["restored"]
        assert (restored["number"], restored["because"]) == (4, "")
        assert (await three.build(source)).ran == []


async def test_without_a_signed_generation_a_pod_is_cold(directory: Path) -> None:
    _, verify = write_keys(directory)
    source = context(directory / "context", BASE, {})
    store = f"--store={directory / 'store'}"
    async with pod(directory / "one", store) as one:
        await one.build(source)
        await one.published(1)
        assert await one.stop() == 0
    flags = (store, "--publish=never", f"--verify-key={SCOPE}={verify}")
    async with pod(directory / "two", *flags) as two:
        state = await two.status()
        assert state["restored"] is None
        assert state["by"]["cold_starts"] == {"untrusted": 1}
        assert "it is not signed" in state["cold_reason"]
        assert (await two.build(source)).ran
