"""Builds the images of deploy/images on a sidecar of this tree, and pushes them.

    tools/images.py push REGISTRY [--tag TAG] [--target NAME]... [--base NAME]... [--no-cache]
        [--no-sbom]
    tools/images.py context DIR        writes the build context, for another builder

The cache of the sidecar is kept in the user's cache directory, so that a second run is short.
Prints a line for each image: its name, and its reference with the digest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from buildsvc._version import __version__
from perf import host
from perf.commandline import run_rootless
from perf.pod import Pod, PodOptions

TARGETS = ("scanner", "sidecar", "step", "service")
"""The images, the scanner first: the others are scanned with it."""
_PROGRAMS = ("buildkitd", "buildctl", "rootlesskit")
_WHEEL_SOURCES = (
    "buildsvc", "sidecar", "proto", "requirements", "tools/protogen.py", "setup.py",
    "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE",
)  # fmt: skip
_PUBLISHED_WITHIN = 600.0
"""Seconds that it may take to publish what was built, on a busy machine."""
_CA = "/usr/local/share/buildsvc-ca.crt"
"""Where tools/base-image.sh puts the authorities of this machine."""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="images.py", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    push = commands.add_parser("push", help="build and push")
    push.add_argument("registry", help="HOST:PORT of a registry that speaks plain HTTP")
    push.add_argument("--tag", default=__version__)
    push.add_argument("--target", action="append", choices=TARGETS, default=[])
    push.add_argument("--base", action="append", choices=("golang", "node", "maven"), default=[],
                      help="push this base image too")  # fmt: skip
    push.add_argument("--no-cache", action="store_true", help="run every step again")
    push.add_argument("--no-sbom", action="store_true", help="without a list of packages")
    push.set_defaults(work=_push)
    context = commands.add_parser("context", help="write the build context")
    context.add_argument("directory", type=Path)
    context.set_defaults(work=_write_context)
    options = parser.parse_args(argv)
    return run_rootless(
        "images",
        [__file__, *argv],
        lambda: int(options.work(options)),
        failed=1,
        interrupted="everything that was started is stopped",
    )


def epoch() -> str:
    """Return the time that the images carry: SOURCE_DATE_EPOCH, else when the version changed.

    It is part of every step. With the time of the newest commit each commit would run them all.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    git = ["git", "-c", "safe.directory=*", "-C", str(host.REPOSITORY)]
    return given or host.output([*git, "log", "-1", "--format=%ct", "--", "buildsvc/_version.py"])


def make_context(directory: Path) -> None:
    """Write what the Dockerfile needs into an empty directory. Raises PerfError."""
    shutil.copytree(host.REPOSITORY / "deploy/images", directory, dirs_exist_ok=True)
    (directory / "programs").mkdir()
    for name in _PROGRAMS:
        shutil.copy2(host.program(name), directory / "programs")
    (directory / "requirements").mkdir()
    for name in ("base.txt", "service.txt"):
        shutil.copy2(host.REPOSITORY / "requirements" / name, directory / "requirements")
    with host.scratch(host.disk(), "buildsvc-wheel") as sources:
        _copy_sources(sources)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
        done = subprocess.run(
            [*command, str(directory / "wheel"), str(sources)],
            env={**host.environment(), "SOURCE_DATE_EPOCH": epoch()},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        raise host.PerfError(f"no wheel: {done.stderr[-2000:]}")


def _copy_sources(target: Path) -> None:
    # The tree may belong to another user, and setuptools writes beside the sources.
    compiled = shutil.ignore_patterns("__pycache__", "_proto", "*.pyc")
    for name in _WHEEL_SOURCES:
        source, copy = host.REPOSITORY / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=compiled)
        else:
            shutil.copy2(source, copy)


def _write_context(options: argparse.Namespace) -> int:
    options.directory.mkdir(parents=True, exist_ok=True)
    make_context(options.directory)
    return 0


def _push(options: argparse.Namespace) -> int:
    # On the disk: this is no measurement, and memory may be wanted for one.
    with host.scratch(host.disk(), "buildsvc-images") as scratch:
        config = scratch / "buildkitd.toml"
        config.write_text(f'[registry."{options.registry}"]\n  http = true\n')
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "buildsvc/images"
        cache.mkdir(parents=True, exist_ok=True)
        context = scratch / "context"
        make_context(context)
        with Pod(scratch / "pod", PodOptions(str(cache), "images", config)) as pod:
            pod.start(watched=False)
            builder = Builder(pod, options.registry, scratch)
            _push_all(builder, context, options)
            # It publishes: the next run finds the cache.
            pod.stop(_PUBLISHED_WITHIN)
    return 0


def _push_all(builder: Builder, context: Path, options: argparse.Namespace) -> None:
    bases = {kind: builder.base(kind) for kind in ("debian", "busybox", *options.base)}
    for kind, reference in bases.items():
        print(f"base/{kind} {reference}", flush=True)
    scanner = f"{options.registry}/buildsvc-scanner:{options.tag}"
    for target in TARGETS:
        if options.target and target not in options.target:
            continue
        flags = [f"--target={target}", f"--version={options.tag}"]
        flags += ["--push-option=rewrite-timestamp=true"]
        flags += [f"--build-arg=BASE={bases['debian']}", f"--build-arg=PIP_CERT={_CA}"]
        flags += [f"--label=org.opencontainers.image.version={__version__}"]
        flags += [f"--label=org.opencontainers.image.revision={host.revision()}"]
        if options.no_cache:
            flags.append("--no-cache")
        if target != "scanner" and not options.no_sbom:
            flags.append(f"--sbom=generator={scanner}")
        print(
            f"buildsvc-{target} {builder.build(f'buildsvc-{target}', context, flags)}", flush=True
        )


class Builder:
    """Builds with the image-build step of this tree."""

    def __init__(self, pod: Pod, registry: str, scratch: Path) -> None:
        self._pod = pod
        self._registry = registry
        self._scratch = scratch

    def base(self, kind: str) -> str:
        """Push a base image of tools/base-image.sh; return its reference.

        Times in it are those of its packages: its layer is not made anew for them.
        """
        context = self._scratch / kind
        context.mkdir()
        rootfs = host.output([str(host.TOOLS / "base-image.sh"), kind])
        shutil.copy2(rootfs, context / "rootfs.tar")
        (context / "Dockerfile").write_text('FROM scratch\nADD rootfs.tar /\nCMD ["/bin/sh"]\n')
        return self.build(f"base/{kind}", context, ["--version=latest"])

    def build(self, name: str, context: Path, flags: Sequence[str]) -> str:
        """Build and push; return the reference with the digest. Raises PerfError."""
        result = self._scratch / "result.json"
        command = [
            sys.executable, "-m", "buildsvc", "image-build",
            f"--registry={self._registry}", "--registry-insecure", f"--repository={name}",
            f"--context={context}", f"--result-file={result}",
            f"--endpoint-file={self._pod.root / 'endpoint.json'}",
            f"--status-url={self._pod.status_url}", "--progress=plain",
            f"--build-arg=SOURCE_DATE_EPOCH={epoch()}", *flags,
        ]  # fmt: skip
        # Standard output is for the names.
        done = subprocess.run(command, stdout=sys.stderr, env=host.environment(), check=False)
        if done.returncode:
            self._pod.check()
            raise host.PerfError(f"{name} was not built ({done.returncode})")
        return str(json.loads(result.read_text())["reference"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
