"""What every side talks to: a real registry with base images, and an object server."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perf.host import REPOSITORY, TOOLS, PerfError, environment, free_port, output

_ACCEPTED = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.manifest.v1",
        "oci.image.index.v1",
        "docker.distribution.manifest.v2",
        "docker.distribution.manifest.list.v2",
    )
)


class Registry:
    """Debian's docker-registry below a directory. Plain HTTP: see `config`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        address = output([str(TOOLS / "registry.sh"), "address"])
        self.host = f"{address}:{free_port(address)}"

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _saved(self) -> Path:
        return self._directory / "saved"

    def start(self) -> None:
        """Start it on what its directory holds."""
        port = self.host.rpartition(":")[2]
        output([str(TOOLS / "registry.sh"), "start", str(self._directory), port])

    def stop(self) -> None:
        """Stop it, if it runs."""
        output([str(TOOLS / "registry.sh"), "stop", str(self._directory)])

    def save(self) -> None:
        """Remember what it holds now."""
        shutil.copytree(self._data, self._saved)

    def reset(self) -> None:
        """Return to what was saved, so that every cold build pushes the same."""
        self.stop()
        shutil.rmtree(self._data)
        shutil.copytree(self._saved, self._data)
        self.start()

    def config(self, path: Path) -> Path:
        """Write the buildkitd.toml that says how to talk to it; return the path."""
        path.write_text(f'[registry."{self.host}"]\n  http = true\n')
        return path

    def manifest(self, repository: str, reference: str) -> dict[str, Any]:
        """Return an image's manifest, of the first platform when there are several."""
        manifest = self._json(f"{repository}/manifests/{reference}")
        if "manifests" in manifest:
            return self.manifest(repository, manifest["manifests"][0]["digest"])
        return manifest

    def image_config(self, repository: str, reference: str) -> dict[str, Any]:
        """Return an image's configuration (OCI image specification). Raises PerfError."""
        digest = self.manifest(repository, reference)["config"]["digest"]
        return self._json(f"{repository}/blobs/{digest}")

    def _json(self, path: str) -> dict[str, Any]:
        url = f"http://{self.host}/v2/{path}"
        request = urllib.request.Request(url, headers={"Accept": _ACCEPTED})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except (OSError, ValueError) as error:
            raise PerfError(f"{url}: {error}") from error


@contextmanager
def registry(directory: Path) -> Iterator[Registry]:
    """A running registry, stopped afterwards."""
    directory.mkdir(parents=True)
    server = Registry(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def push_base(address: str, host: str, kind: str = "debian") -> str:
    """Push a base image with the daemon at an address; return the image's name."""
    return output([str(TOOLS / "push-base.sh"), address, host, kind]).splitlines()[-1]


@contextmanager
def object_server(directory: Path, log: Path) -> Iterator[str]:
    """An HTTP object server over a directory (perf.objectserver); yields its URL."""
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "perf.objectserver", f"--directory={directory}"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=REPOSITORY,
            env=environment(), start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], 20)
            url = process.stdout.readline().strip() if ready else ""
            if not url:
                raise PerfError(f"the object server did not start: {log.read_text()[-2000:]}")
            yield url
        finally:
            process.terminate()
