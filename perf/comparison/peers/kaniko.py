"""Kaniko: an executor without a daemon, which unpacks images over its own root directory.

Each build has a pod of its own (of several images all), as https://github.com/GoogleContainerTools/kaniko/tree/v1.24.0
says ("Running kaniko in a Kubernetes cluster"): its image's files (``deploy/Dockerfile``), and
what Kubernetes mounts. The options are those of its README:

- ``--cache``, ``--cache-repo``, ``--cache-copy-layers`` ("Caching Layers"): layers of RUN and of
  COPY are kept in the registry;
- ``--snapshot-mode=redo`` ("up to 50% faster than full"), with which Kaniko itself measures
  (``integration/benchmark_fs/cloudbuild.yaml``);
- ``--skip-unused-stages``: else a target's image costs all stages before it in the file;
- ``--compressed-caching=false`` for layers of gigabytes alone ("especially for large builds"): it
  "will increase the runtime of the build", and without it 23 GB are not enough for ``manyfiles``;
- not ``--single-snapshot``, which leaves one layer, so that nothing of a change is cached, nor
  ``--cache-dir``, a volume that outlives the pod;
- not ``--use-new-run``, "experimental", with "potential for missed files": it was no faster here.

It has to be told that this is a container (``--force``). A fresh pod's build reads the cache and
does not write it (``--no-push-cache``), as BuildKit's.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.build import Job
from perf.comparison.peers.contract import Meter, Peer, Record
from perf.comparison.peers.kanikolog import message, read_log
from perf.comparison.place import Place
from perf.host import PerfError, program, remove_tree

#: Makes the current directory the root of a pod with the context ($1) and the executor ($2), and
#: waits until it is told to go on.
_POD = """
set -eu
context=$1 executor=$2
mount --bind . .
cd "$PWD"
mkdir -p proc sys dev etc workspace kaniko/ssl/certs kaniko/.docker
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
file() {
  : > "$2"
  mount --bind "$1" "$2"
}
for name in dev/null dev/zero dev/full dev/random dev/urandom dev/tty etc/hosts etc/resolv.conf; do
  file /$name $name
done
file "$executor" kaniko/executor
file /etc/ssl/certs/ca-certificates.crt kaniko/ssl/certs/ca-certificates.crt
mount --bind "$context" workspace
echo made
read -r _
"""
#: As its image sets them, but for the path on which the commands above are found.
_ENVIRONMENT = {
    "HOME": "/root",
    "USER": "root",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "SSL_CERT_DIR": "/kaniko/ssl/certs",
    "DOCKER_CONFIG": "/kaniko/.docker/",
}


class Kaniko(Peer):
    """A fresh pod for each build, with the layer cache in the registry."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, "kaniko")

    def first(self) -> Record:
        """Build, and write the cache."""
        record = self._build()
        registry = self.place.images.use(self.family)
        return {**record, "stored_bytes": registry.stored_bytes(self._repository())}

    def again(self) -> Record:
        """Build, reading the cache."""
        return self._build("--no-push-cache")

    def arguments(self, job: Job) -> list[str]:
        """Return the executor's options for one image."""
        host = self.place.images.host
        # Kaniko skips ``--mount`` without a word: caches would end up in the image.
        dockerfile = self.place.project.plain()
        return [
            *("--context=dir:///workspace", "--force", "--log-format=json"),
            f"--dockerfile=/workspace/{dockerfile.relative_to(job.context)}",
            f"--destination={job.image}",
            *([f"--target={job.target}"] if job.target else ()),
            *(f"--build-arg={name}={value}" for name, value in job.arguments.items()),
            *("--insecure", f"--insecure-registry={host}"),
            *("--cache=true", f"--cache-repo={host}/{self._repository()}"),
            *(["--compressed-caching=false"] if self.place.project.large_layers else ()),
            *("--cache-copy-layers=true", "--snapshot-mode=redo", "--skip-unused-stages=true"),
        ]

    def _repository(self) -> str:
        # Kaniko makes a tag for each layer.
        return self.cache().partition("/")[2].rpartition(":")[0]

    def _build(self, *options: str) -> Record:
        jobs = self.place.project.jobs(self.image().rpartition(":")[0])
        calls = [[*self.arguments(job), *options] for job in jobs]
        for call in calls[:-1]:
            # What it has unpacked and built must not be in the next image.
            call.append("--cleanup")
        with _root(self.place.fresh("kaniko")) as root:
            images = [job.image for job in jobs]
            return _run(root, self.place.project.context, calls, images)


@contextmanager
def _root(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    try:
        yield directory
    finally:
        remove_tree(directory)


def _run(root: Path, context: Path, calls: list[list[str]], images: list[str]) -> Record:
    """Run the executor on a pod's root directory, once for each image."""
    executor = ["chroot", ".", "/kaniko/executor"]
    lines_of_pod = [f"{shlex.join([*executor, *call])} < /dev/null" for call in calls]
    pod = _POD + "\n".join(lines_of_pod)
    command = [
        # A process namespace: with the executor everything ends that it has left behind.
        *("setpriv", "--pdeathsig=KILL"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", pod, "sh"),
        *(str(context), program("executor")),
    ]
    with _process(command, root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout.readline()
        if said != "made\n":
            raise PerfError(f"no pod can be made here: {said}{process.stdout.read()}")
        # What Kubernetes does before a pod's first process is not counted.
        meter = Meter()
        meter.watch(process.pid)
        made = meter.processor()
        process.stdin.write("\n")
        process.stdin.close()
        lines = [(meter.elapsed(), line) for line in process.stdout]
        # Not yet waited for, so that /proc still tells what it and all below it have spent.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        seconds, spent = meter.elapsed(), meter.processor() - made
    cost = meter.close()
    if process.returncode:
        last = "\n".join(message(line) or line.rstrip() for _, line in lines[-20:])
        raise PerfError(f"kaniko exited with {process.returncode}\n{last}")
    log = read_log(lines, images, seconds)
    return {
        "seconds": round(seconds, 3),
        # There is nothing that could be started before the build.
        "build_seconds": round(seconds, 3),
        "steps": log.steps,
        "cached": log.cached,
        "cpu_seconds": round(spent, 2),
        "commands": [command],
        "spans": log.spans,
        **cost,
    }


@contextmanager
def _process(command: list[str], directory: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=directory, env=_ENVIRONMENT, text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
