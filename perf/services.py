"""What every side talks to: a real registry with base images, an object server, an S3 server."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perf.host import REPOSITORY, TOOLS, PerfError, environment, free_port, output, program

#: Seconds in which a server answers, or does not start any more.
_PATIENCE = 60.0

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
    """Debian's docker-registry below a directory. Plain HTTP: see `config`.

    ``prefix`` is what a command begins with that is to run where it is to run, ``port`` a port
    that is free there; without them it is here, on any port.
    """

    def __init__(self, directory: Path, prefix: Sequence[str] = (), port: int = 0) -> None:
        self._directory = directory
        self._script = [*prefix, str(TOOLS / "registry.sh")]
        address = output([*self._script, "address"])
        self.host = f"{address}:{port or free_port(address)}"

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _saved(self) -> Path:
        return self._directory / "saved"

    def start(self) -> None:
        """Start it on what its directory holds."""
        port = self.host.rpartition(":")[2]
        output([*self._script, "start", str(self._directory), port])

    def stop(self) -> None:
        """Stop it, if it runs."""
        output([*self._script, "stop", str(self._directory)])

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

    def stored_bytes(self, *repositories: str) -> int:
        """Return the size of what all tags of repositories consist of, each blob once.

        Blobs that other repositories have too count. Raises PerfError.
        """
        blobs: dict[str, int] = {}
        tags = [(r, tag) for r in repositories for tag in self._json(f"{r}/tags/list")["tags"]]
        for repository, tag in tags:
            manifest = self._json(f"{repository}/manifests/{tag}")
            for blob in (*manifest.get("layers", ()), *manifest.get("manifests", ())):
                blobs[blob["digest"]] = blob["size"]
            if "config" in manifest:
                blobs[manifest["config"]["digest"]] = manifest["config"]["size"]
        return sum(blobs.values())

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


def push_base(address: str, host: str, kind: str = "debian", revision: int = 0) -> str:
    """Push a base image with the daemon at an address; return the image's name.

    Every revision is another image: the one without a number and a layer with a file of its own.
    """
    command = [str(TOOLS / "push-base.sh"), address, host, kind]
    return output([*command, *([str(revision)] if revision else [])]).splitlines()[-1]


@contextmanager
def object_server(
    directory: Path, log: Path, prefix: Sequence[str] = (), listen: str = "127.0.0.1:0"
) -> Iterator[str]:
    """An HTTP object server over a directory (perf.objectserver); yields its URL.

    ``prefix`` is what a command begins with that is to run where it is to run.
    """
    directory.mkdir(parents=True, exist_ok=True)
    command = [*prefix, sys.executable, "-m", "perf.objectserver"]
    command += [f"--directory={directory}", f"--listen={listen}"]
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


@contextmanager
def minio(
    data: Path,
    log: Path,
    listen: str,
    user: tuple[str, str],
    *,
    prefix: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[None]:
    """A real S3 server, MinIO, over a directory whose directories are its buckets.

    ``user`` is the key id and the secret of the one who may everything, ``prefix`` as for
    `object_server`. Raises PerfError when it does not start.
    """
    settings = {
        "HOME": str(data.parent),
        "MINIO_ROOT_USER": user[0],
        "MINIO_ROOT_PASSWORD": user[1],
        # Nothing but the store: no web page, no look for a newer version.
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    command = [*prefix, program("minio"), "server", f"--address={listen}", *options, str(data)]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=settings
        ) as process,
    ):
        try:
            _wait_ready(process, log)
            yield
        finally:
            process.kill()


def _wait_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    # It says so in its log, and to nobody else.
    end = time.monotonic() + _PATIENCE
    while b"\nAPI: " not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > end:
            raise PerfError(f"MinIO did not start: {log.read_text()[-2000:]}")
        time.sleep(0.02)
