"""Point 10: what a pod is given in confidence shows up nowhere."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import secrets
import subprocess
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import zstandard
from aiohttp import ClientSession
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildsvc.cache import packs
from buildsvc.store.contract import Store
from buildsvc.store.open import open_store
from perf.host import program
from tests import minio
from tests.campaign.points import Found, Part, Point, Scene
from tests.integration.commands import sidecar
from tests.integration.contexts import BASE, context
from tests.integration.sidecars import Pod

CONTROL = f"control-{secrets.token_hex(8)}"
"""What is no secret: it is found wherever a build's files go, or the search is none."""

_LOOK = (
    "cp /control /cache/control;"
    " for p in /proc/[0-9]*; do for f in environ cmdline maps mountinfo status comm stat cgroup;"
    " do cat $p/$f; done; ls -l $p/fd $p/root/ $p/cwd/; done;"
    " env; cat /proc/keys /proc/mounts /etc/*; find / -xdev -type f -size -100"
    " ! -path '/proc/*' ! -path '/run/secrets/*' ! -path /found -exec cat {} +"
)
_MOST = 256 << 20
"""Bytes that a step keeps of what it sees: it must not fill the memory it is written to."""

_DOCKERFILE = f"""\
{BASE}
COPY control look /
RUN --mount=type=cache,target=/cache --mount=type=secret,id=token \\
    timeout 20 sh /look 2>&1 | head -c {_MOST} > /found; cat /control
RUN cat /control > /copy; false || true
"""
_BROKEN = f"{BASE}\nRUN env; cat /proc/self/environ /proc/1/environ; false\n"


@dataclass(frozen=True)
class Confidence:
    """What a pod is given: an environment, flags, and the secrets in them by name."""

    address: str
    environment: Mapping[str, str]
    flags: Sequence[str]
    secrets: Mapping[str, bytes]
    stored: bool = False
    """Whether the store takes anything."""


@dataclass
class Search:
    """Looks for secrets, however they are written."""

    needles: Mapping[str, Sequence[bytes]]
    counts: Counter[str] = field(default_factory=Counter)
    misses: list[str] = field(default_factory=list)
    control: Counter[str] = field(default_factory=Counter)

    def look(self, where: str, data: bytes) -> None:
        """Look at some bytes."""
        self.counts[where] += len(data)
        self.control[where] += data.count(CONTROL.encode())
        self.control["the sidecar's process"] += data.count(b"\0-m\0sidecar\0run\0")
        for name, forms in self.needles.items():
            if any(form in data for form in forms):
                self.misses.append(f"{name} is in {where}")


def forms(secret: bytes) -> list[bytes]:
    """The ways in which a secret is often written."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode(), secret[::-1]}
    found.add(quote(secret).encode())
    found.add(quote(secret, safe="").encode())
    found.add(secret.decode("latin-1").encode("utf-16-le"))
    for shift in range(3):
        # The same bytes at each place in a longer text; its ends depend on what is around.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(shift) + secret)[4:-4])
    return sorted(found)


def _signing(directory: Path) -> tuple[list[str], dict[str, bytes]]:
    key = Ed25519PrivateKey.generate()
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path = directory / "signing.key"
    path.write_bytes(pem)
    path.chmod(0o600)
    raw = key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, plain)
    return [f"--signing-key={path}"], {"signing key": raw, "its file": pem.splitlines()[1]}


@asynccontextmanager
async def _s3(directory: Path) -> AsyncIterator[Confidence]:
    with minio.running(directory / "minio") as server:
        flags, kept = _signing(directory)
        environment = {**minio.CREDENTIALS, "NO_PROXY": "127.0.0.1"}
        kept["secret access key"] = minio.SECRET.encode()
        yield Confidence(server.address("ci"), environment, flags, kept, stored=True)


@asynccontextmanager
async def _s3_refusing(directory: Path) -> AsyncIterator[Confidence]:
    with minio.running(directory / "minio") as server:
        secret, token = secrets.token_urlsafe(30), f"{secrets.token_urlsafe(60)}+/="
        environment = {
            "AWS_ACCESS_KEY_ID": minio.KEY_ID, "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_SESSION_TOKEN": token, "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        kept = {"secret access key": secret.encode(), "session token": token.encode()}
        yield Confidence(server.address("ci"), environment, [], kept)


@asynccontextmanager
async def _oss_absent(directory: Path) -> AsyncIterator[Confidence]:
    secret, token = secrets.token_urlsafe(22), f"{secrets.token_urlsafe(300)}=="
    environment = {
        "OSS_ACCESS_KEY_ID": "LTAI-test", "OSS_ACCESS_KEY_SECRET": secret,
        "OSS_SESSION_TOKEN": token,
    }  # fmt: skip
    flags, kept = _signing(directory)
    kept |= {"secret access key": secret.encode(), "session token": token.encode()}
    yield Confidence(
        "oss://bucket/ci?region=cn-test&endpoint=http://oss.invalid", environment, flags, kept
    )


KINDS = {"s3": _s3, "s3 that refuses": _s3_refusing, "oss that is absent": _oss_absent}


async def _confide(scene: Scene, kind: str, pods: int) -> Found:
    """Give secrets to pods, build, and look everywhere."""
    counts, control, misses = Counter[str](), Counter[str](), list[str]()
    for number in range(1, pods + 1):
        directory = scene.directory / f"{number}"
        (directory / "minio").mkdir(parents=True)
        async with KINDS[kind](directory) as given:
            token = secrets.token_hex(20)
            kept = {**given.secrets, "build secret": token.encode()}
            search = Search({name: forms(secret) for name, secret in kept.items()})
            (directory / "token").write_text(token)
            await _live(directory, given, search)
        counts += search.counts
        control += search.control
        misses += [f"pod {number}: {miss}" for miss in search.misses]
        scene.say(f"pod {number} of {pods}: {sum(counts.values()) >> 20} MiB searched")
    # What is no secret is there, so a secret would have been found.
    places = [
        "image",
        "build log",
        "local files",
        "the sidecar's process",
        *(["cache objects"] if kind == "s3" else []),
    ]
    for where in places:
        assert control[where] >= pods, f"the search does not see what is in {where}"
    return Found({"pods": pods, "bytes_searched": dict(counts), "control": dict(control)}, misses)


async def _live(directory: Path, given: Confidence, search: Search) -> None:
    place = context(directory / "context", _DOCKERFILE, {"control": f"{CONTROL}\n", "look": _LOOK})
    broken = context(directory / "broken", _BROKEN)
    archive = directory / "image.tar"
    flags = [
        f"--store={given.address}", "--log-level=debug", "--http-listen=127.0.0.1:0", *given.flags
    ]  # fmt: skip
    async with Pod(directory / "pod", *flags, env=given.environment) as one:
        await one.ready()
        options = (f"--secret=id=token,src={directory / 'token'}", "--no-cache")
        build = await one.build(place, *options, f"--output=type=oci,dest={archive}")
        failed = await one.try_build(broken)
        assert failed.code, "the step that fails did not"
        search.look("build log", (build.output + build.text + failed.output + failed.text).encode())
        search.look("checkpoint report", str(await one.checkpoint()).encode())
        await _pages(one, search)
        bundle = directory / "bundle.tar.gz"
        done = await sidecar(
            "debug-bundle", f"--root={one.root}", "-o", bundle, env=given.environment
        )
        assert done.code == 0, done.err
        _look_into(bundle, "debug bundle", search)
        _look_into(archive, "image", search)
        assert await one.stop() == 0
        search.look("log", one.log.encode())
        search.look("local files", await asyncio.to_thread(_files, one.root))
    if given.stored:
        with mock.patch.dict(os.environ, given.environment):
            await _objects(open_store(given.address), search)


async def _pages(one: Pod, search: Search) -> None:
    state = await one.status()
    search.look("status", str(state).encode())
    address = state["http"] if "://" in state["http"] else f"http://{state['http']}"
    async with ClientSession() as session:
        for path in ("/", "/status", "/metrics"):
            async with session.get(address + path) as answer:
                search.look(f"page {path}", await answer.read())


def _files(root: Path) -> bytes:
    """Everything in a pod's directory, also what other users own there."""
    argv = [program("rootlesskit"), "sh", "-c", 'find "$1" -type f -exec cat {} +', "sh", str(root)]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout


def _look_into(path: Path, where: str, search: Search) -> None:
    """Look at an archive: itself, its members, and theirs if they are archives."""
    search.look(where, path.read_bytes())
    for data in _members(path.read_bytes()):
        search.look(where, data)


def _members(data: bytes) -> Iterator[bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    content = file.read()
                    yield content
                    yield from _members(content)
    except tarfile.ReadError:
        return


async def _objects(store: Store, search: Search) -> None:
    """Look at every object as it is and, where it is compressed, as it was."""
    async for stat in store.list(""):
        data = await store.get(stat.name)
        search.look("cache objects", data)
        if stat.name.startswith("packs/"):
            index = packs.read_index(data, len(data))
            for offset, stored, length in zip(
                index.offsets, index.stored, index.lengths, strict=True
            ):
                if stored < length:
                    frame = data[offset : offset + stored]
                    search.look("cache objects", zstandard.ZstdDecompressor().decompress(frame))
        elif stat.name.startswith("roots/"):
            search.look("cache objects", zstandard.ZstdDecompressor().decompress(data))
    await store.close()


def _parts(pods: int) -> list[Part]:
    def part(kind: str) -> Part:
        return Part(kind, lambda scene: asyncio.run(_confide(scene, kind, pods)))

    return [part(kind) for kind in KINDS]


POINT = Point(
    number=10,
    name="canaries",
    claim="Credentials of stores, signing keys and build secrets: not once in logs, status,"
    " metrics, images, cache objects, a pod's files, or /proc as a RUN step sees it.",
    unit="pods with each kind of credentials",
    full=10,
    quick=1,
    parts=_parts,
    minutes="10 minutes, quick 1",
    room=4 << 30,
)
