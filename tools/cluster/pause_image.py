"""Writes the image of pods' first container, an OCI archive, to standard output: a busybox.

    pause_image.py BUSYBOX NAME | ctr images import -

It holds a pod's namespaces, so it has to be there before anything can be pulled.
https://github.com/opencontainers/image-spec
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

_KIND = "application/vnd.oci.image"


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _blob(archive: tarfile.TarFile, kind: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    _add(archive, f"blobs/sha256/{digest}", content)
    return {"mediaType": f"{_KIND}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def main() -> None:
    """Write it."""
    busybox, name = Path(sys.argv[1]), sys.argv[2]
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as layer:
        _add(layer, "busybox", busybox.read_bytes(), 0o755)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        first = _blob(archive, "layer.v1.tar", files.getvalue())
        command = ["/busybox", "sleep", "inf"]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": command, "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [first["digest"]]},
        }
        parts = {
            "schemaVersion": 2,
            "mediaType": f"{_KIND}.manifest.v1+json",
            "config": _blob(archive, "config.v1+json", json.dumps(config).encode()),
            "layers": [first],
        }
        manifest = _blob(archive, "manifest.v1+json", json.dumps(parts).encode())
        manifest["annotations"] = {"io.containerd.image.name": name}
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        index = {"schemaVersion": 2, "manifests": [manifest]}
        _add(archive, "index.json", json.dumps(index).encode())


if __name__ == "__main__":
    main()
