"""What a build's output holds: directories, image archives, registries."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession


def files(directory: Path) -> dict[str, object]:
    """Describe every entry below a directory: its type and mode, and its content or target."""
    found: dict[str, object] = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            what = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            what = ""
        found[str(path.relative_to(directory))] = (oct(status.st_mode), what)
    return found


@dataclass(frozen=True)
class Image:
    """An image as an OCI archive or a registry has it; every blob was checked by its digest."""

    manifest_digest: str
    manifest: dict[str, Any]
    config: dict[str, Any]
    layers: list[bytes]

    @property
    def diff_ids(self) -> list[str]:
        """Digests of the uncompressed layers: equal means equal in every byte and attribute."""
        return list(self.config["rootfs"]["diff_ids"])

    @property
    def uncompressed(self) -> list[bytes]:
        """The layers as tar archives, checked by their diff ids."""
        plain = [gzip.decompress(layer) for layer in self.layers]
        return [checked(*pair) for pair in zip(plain, self.diff_ids, strict=True)]

    def entries(self, layer: int) -> dict[str, tarfile.TarInfo]:
        """Return the entries of one layer by name."""
        with tarfile.open(fileobj=io.BytesIO(self.uncompressed[layer])) as tar:
            return {info.name.rstrip("/"): info for info in tar}


def checked(blob: bytes, digest: str) -> bytes:
    """Return the blob if it is what its digest says."""
    assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == digest
    return blob


def oci_archive(path: Path) -> Image:
    """Read an archive of one image."""
    with tarfile.open(path) as tar:

        def blob(descriptor: dict[str, Any]) -> bytes:
            member = tar.extractfile("blobs/" + descriptor["digest"].replace(":", "/"))
            assert member is not None
            content = member.read()
            assert len(content) == descriptor["size"]
            return checked(content, descriptor["digest"])

        index = tar.extractfile("index.json")
        assert index is not None
        (entry,) = json.load(index)["manifests"]
        manifest = json.loads(blob(entry))
        if "manifests" in manifest:
            (inner,) = [m for m in manifest["manifests"] if "annotations" not in m]
            entry, manifest = inner, json.loads(blob(inner))
        return Image(
            entry["digest"],
            manifest,
            json.loads(blob(manifest["config"])),
            [blob(layer) for layer in manifest["layers"]],
        )


async def pulled(host: str, name: str, tag: str) -> Image:
    """Pull an image of one platform from a registry over plain HTTP."""
    accept = "application/vnd.oci.image.manifest.v1+json,application/vnd.oci.image.index.v1+json"
    accept += ",application/vnd.docker.distribution.manifest.v2+json"
    async with ClientSession(headers={"Accept": accept}, raise_for_status=True) as session:

        async def get(kind: str, reference: str) -> bytes:
            async with session.get(f"http://{host}/v2/{name}/{kind}/{reference}") as answer:
                return await answer.read()

        async def blob(descriptor: dict[str, Any]) -> bytes:
            return checked(await get("blobs", descriptor["digest"]), descriptor["digest"])

        raw = await get("manifests", tag)
        manifest = json.loads(raw)
        if "manifests" in manifest:
            (entry,) = [m for m in manifest["manifests"] if "annotations" not in m]
            raw = checked(await get("manifests", entry["digest"]), entry["digest"])
            manifest = json.loads(raw)
        return Image(
            f"sha256:{hashlib.sha256(raw).hexdigest()}",
            manifest,
            json.loads(await blob(manifest["config"])),
            [await blob(layer) for layer in manifest["layers"]],
        )
