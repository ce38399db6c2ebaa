"""What a build's output holds: directories, image archives, registries."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

    def entries(self, layer: int) -> dict[str, tarfile.TarInfo]:
        """Return the entries of one layer by name."""
        with tarfile.open(fileobj=io.BytesIO(self.layers[layer])) as tar:
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
