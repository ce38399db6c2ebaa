"""A small project whose image is known byte for byte, whatever was cached when it was built."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from pathlib import Path
from typing import IO

from tests.integration.buildctl import Build
from tests.integration.contexts import BASE, context, write
from tests.integration.sidecars import Pod

_NOISE_BYTES = 2 << 20
_DOCKERFILE = f"""\
{BASE}
FROM base AS made
COPY noise /noise
RUN --mount=type=cache,target=/cache \
    cat /noise > /cache/noise && mkdir /data && cp /cache/noise /data/copy && \
    i=0; while [ $i -lt 100 ]; do echo "$i$i" > /data/$i; i=$((i+1)); done
FROM base
COPY --from=made /data /data
COPY revision /revision
RUN cat /revision /data/7 > /sum && md5sum /data/copy >> /sum
"""


class Project:
    """Its context lies in ``directory``; a revision changes the last two steps."""

    def __init__(self, directory: Path) -> None:
        self._noise = random.Random(1).randbytes(_NOISE_BYTES)
        self.directory = context(directory, _DOCKERFILE, {"noise": self._noise})
        self._exports = 0

    def revise(self, revision: int) -> None:
        """Change one source file."""
        write(self.directory, {"revision": f"{revision}\n"})

    def expected(self, revision: int) -> dict[str, str]:
        """Return the MD5 of each regular file of the image, but busybox."""
        noise = hashlib.md5(self._noise).hexdigest()
        files = {f"data/{i}": f"{i}{i}\n" for i in range(100)}
        files["revision"] = f"{revision}\n"
        files["sum"] = f"{revision}\n77\n{noise}  /data/copy\n"
        sums = {name: hashlib.md5(text.encode()).hexdigest() for name, text in files.items()}
        return {**sums, "data/copy": noise}

    async def build(self, pod: Pod, revision: int) -> tuple[Build, Path]:
        """Build the revision and export the image to an OCI archive; the build may fail."""
        self.revise(revision)
        self._exports += 1
        archive = pod.root.with_name(f"{pod.root.name}.{self._exports}.tar")
        return await pod.try_build(self.directory, f"--output=type=oci,dest={archive}"), archive

    def check(self, archive: Path, revision: int) -> None:
        """Compare the image with what it must be."""
        found = image_files(archive)
        busybox = found.pop("bin/busybox")
        assert busybox == hashlib.md5((self.directory / "busybox").read_bytes()).hexdigest()
        assert found == self.expected(revision)
        archive.unlink()


def image_files(archive: Path) -> dict[str, str]:
    """Return the MD5 of each regular file of the one image in an OCI archive.

    Layers' digests are verified, so that an image made of wrong bytes is never taken for one.
    """
    files: dict[str, str] = {}
    with tarfile.open(archive) as outer:
        index = json.loads(_read(outer, "index.json"))
        manifest = json.loads(_blob(outer, index["manifests"][0]["digest"]))
        _blob(outer, manifest["config"]["digest"])
        for layer in manifest["layers"]:
            _blob(outer, layer["digest"])
            with tarfile.open(fileobj=_open(outer, _name(layer["digest"]))) as inner:
                for member in inner:
                    if member.isreg():
                        content = inner.extractfile(member)
                        assert content is not None
                        files[member.name] = hashlib.md5(content.read()).hexdigest()
    return files


def _name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _blob(archive: tarfile.TarFile, digest: str) -> bytes:
    data = _read(archive, _name(digest))
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    return _open(archive, name).read()


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    member = archive.extractfile(name)
    assert member is not None, f"the archive has no {name}"
    return member
