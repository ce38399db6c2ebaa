"""The image-build step on the real sidecar, daemon and registry."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponseError, ClientSession

from tests.integration.commands import command, environment
from tests.integration.conftest import Registries
from tests.integration.contexts import BASE, context
from tests.integration.exports import oci_archive, pulled
from tests.integration.proctree import below, command_line
from tests.integration.sidecars import Pod, pod
from tests.integration.steps import HTTP, beside, result, start_step, step

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True)
class Place:
    """A pod, and a registry that both it and the step reach over plain HTTP."""

    pod: Pod
    registry: str
    flags: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(shared: Path, registries: Registries) -> AsyncIterator[Place]:
    registry = registries.start("steps")
    async with pod(shared / "one", HTTP) as one:
        flags = [*await beside(one), f"--registry={registry}", "--registry-insecure"]
        yield Place(one, registry, flags)


@pytest.fixture
def app(directory: Path) -> Path:
    return context(directory / "context", BASE + "RUN echo made > /made\n")


async def test_it_builds_pushes_checks_and_tells(place: Place, app: Path, directory: Path) -> None:
    results = directory / "results"
    done = await step(
        directory, *place.flags, "--repository={repository}", "--version={short_commit}",
        "--tag={branch}", "--tag=latest", f"--context={app}",
        f"--result-file={results / 'result.json'}", f"--digest-file={results / 'digest'}",
        f"--reference-file={results / 'reference'}", f"--dotenv={results / 'build.env'}",
        f"--tekton-results={results / 'tekton'}",
        env={
            "CI_PROJECT_PATH": "Acme/Team/App", "CI_COMMIT_BRANCH": "feature/x",
            "CI_COMMIT_SHA": "0123456789abcdef" * 2, "GITHUB_OUTPUT": str(results / "outputs"),
        },
    )  # fmt: skip
    assert done.code == 0, done.err
    tags = ["0123456789ab", "feature-x", "latest"]
    images = [await pulled(place.registry, "acme/team/app", tag) for tag in tags]
    (digest,) = {image.manifest_digest for image in images}
    name = f"{place.registry}/acme/team/app"
    reference = f"{name}:{tags[0]}@{digest}"
    assert (results / "digest").read_text() == digest
    assert (results / "reference").read_text() == reference
    told = result(results / "result.json")
    assert told["references"] == [f"{name}:{tag}" for tag in tags]
    assert (told["digest"], told["pushed"], told["verified"]) == (digest, True, True)
    assert told["attempts"] == 1
    # Those that BuildKit counts: three of the Dockerfile, and what it does by itself.
    assert told["steps_cached"] == 0
    assert f"0 of {told['steps_total']} steps cached" in done.err
    lines = [f"digest={digest}", f"name={name}:{tags[0]}", f"reference={reference}"]
    lines.append("references=" + ",".join(f"{name}:{tag}" for tag in tags))
    assert (results / "outputs").read_text().splitlines() == lines
    variables = [f"IMAGE_{key.upper()}={value}" for key, _, value in map(_parts, lines)]
    assert (results / "build.env").read_text().splitlines() == variables
    tekton = {path.name: path.read_text() for path in (results / "tekton").iterdir()}
    assert tekton == {
        "IMAGE_DIGEST": digest, "IMAGE_URL": f"{name}:{tags[0]}", "IMAGE_REFERENCE": reference
    }  # fmt: skip
    assert f"image-build: {name}:latest@{digest} is in the registry" in done.err
    assert "RUN echo made" in done.err
    assert "saved" not in done.err


def _parts(line: str) -> tuple[str, str, str]:
    return line.partition("=")


async def test_a_failing_build_gives_its_own_exit_code(place: Place, directory: Path) -> None:
    app = context(directory / "context", BASE + "RUN echo about-to-fail && exit 7\n")
    done = await step(
        directory, *place.flags, "--repository=app", "--version=1", f"--context={app}",
        f"--digest-file={directory / 'digest'}",
    )  # fmt: skip
    assert done.code == 1, done.err
    assert "exit code: 7" in done.err
    assert "again" not in done.err
    assert not (directory / "digest").exists()
    assert (await place.pod.status())["by"]["builds"]["failed"] >= 1


async def test_secrets_and_ssh_reach_run_steps_only(place: Place, directory: Path) -> None:
    word = "correct-horse-7193"
    key = directory / "key"
    await command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "step", "-f", key)
    app = context(
        directory / "context",
        BASE + "RUN --mount=type=secret,id=file --mount=type=secret,id=variable "
        "wc -c < /run/secrets/file && wc -c < /run/secrets/variable && "
        "test $(cat /run/secrets/file) = $(cat /run/secrets/variable)\n"
        "RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo there-is-an-agent\n",
    )
    (directory / "word").write_text(word)
    done = await step(
        directory, *place.flags, "--repository=secrets", "--version=1", f"--context={app}",
        f"--ssh=default={key}", f"--result-file={directory / 'result.json'}",
        env={
            "WORD": word,
            "BUILDSVC_IMAGE_SECRET": f"id=file,src={directory / 'word'}\nid=variable,env=WORD",
        },
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "there-is-an-agent" in done.err
    assert word not in done.err + (directory / "result.json").read_text()


async def test_outputs_to_files_beside_and_instead_of_the_push(
    place: Place, app: Path, directory: Path
) -> None:
    archive, tree = directory / "out" / "image.tar", directory / "tree"
    common = [*place.flags, "--repository=files", f"--context={app}"]
    beside_ = await step(
        directory, *common, "--version=both", f"--output=type=oci,dest={archive}",
        f"--output=type=local,dest={tree}", f"--digest-file={directory / 'digest'}",
    )  # fmt: skip
    assert beside_.code == 0, beside_.err
    assert (tree / "made").read_text() == "made\n"
    image = await pulled(place.registry, "files", "both")
    assert image.diff_ids == oci_archive(archive).diff_ids
    assert (directory / "digest").read_text() == image.manifest_digest
    instead = await step(
        directory, *common, "--version=none", "--push=off", f"--output=type=docker,dest={archive}",
        f"--result-file={directory / 'result.json'}",
    )  # fmt: skip
    assert instead.code == 0, instead.err
    told = result(directory / "result.json")
    assert (told["pushed"], told["verified"], told["reference"]) == (False, False, "")
    with tarfile.open(archive) as tar:
        member = tar.extractfile("manifest.json")
        assert member is not None
        (entry,) = json.load(member)
    assert entry["RepoTags"] == [f"{place.registry}/files:none"]
    with pytest.raises(ClientResponseError):
        await pulled(place.registry, "files", "none")


async def test_labels_annotations_arguments_target_and_provenance(
    place: Place, directory: Path
) -> None:
    app = context(
        directory / "context",
        BASE + "FROM base AS wanted\nARG WHO\nARG HOW\nRUN echo $WHO $HOW > /said\n"
        "FROM base\nRUN exit 1\n",
    )
    (app / "sub").mkdir()
    (app / "Dockerfile").rename(app / "sub" / "Other")
    done = await step(
        directory, *place.flags, "--repository=more", "--version=1", f"--context={app}",
        "--dockerfile=sub/Other", "--target=wanted", "--build-arg=WHO=us, them", "--build-arg=HOW",
        "--label=org.example.label=a, b", '--annotation=org.example.note=says "x, y"',
        "--provenance=max", f"--output=type=local,dest={directory / 'tree'}",
        f"--digest-file={directory / 'digest'}",
        env={"HOW": "well"},
    )  # fmt: skip
    assert done.code == 0, done.err
    said = next((directory / "tree").rglob("said"))
    assert said.read_text() == "us, them well\n"
    image = await pulled(place.registry, "more", "1")
    assert image.config["config"]["Labels"]["org.example.label"] == "a, b"
    assert image.manifest["annotations"]["org.example.note"] == 'says "x, y"'
    index = await manifest(place.registry, "more", (directory / "digest").read_text())
    (attestation,) = [entry for entry in index["manifests"] if "annotations" in entry]
    layers = (await manifest(place.registry, "more", attestation["digest"]))["layers"]
    kinds = {layer["annotations"]["in-toto.io/predicate-type"] for layer in layers}
    assert any(kind.startswith("https://slsa.dev/provenance/") for kind in kinds)


async def manifest(registry: str, name: str, digest: str) -> dict[str, Any]:
    """Read a manifest by its digest."""
    url = f"http://{registry}/v2/{name}/manifests/{digest}"
    kind = "application/vnd.oci.image"
    accept = {"Accept": f"{kind}.index.v1+json,{kind}.manifest.v1+json"}
    async with (
        ClientSession(headers=accept, raise_for_status=True) as session,
        session.get(url) as answer,
    ):
        found: dict[str, Any] = json.loads(await answer.read())
        return found


async def test_a_context_in_git(place: Place, directory: Path, reachable_address: str) -> None:
    """The daemon clones it; the Dockerfile is found in a directory of the branch."""
    work = context(directory / "work", BASE + "COPY f /f\n", {"f": "of main\n"})
    (work / "docker").mkdir()
    (work / "Dockerfile").rename(work / "docker" / "Image")
    who = ("-c", "user.name=me", "-c", "user.email=me@example.com")
    for argv in (("init", "-q", "-b", "main"), ("add", "-A"), (*who, "commit", "-q", "-m", "one")):
        done = await command("git", "-C", work, *argv)
        assert done.code == 0, done.err
    await command("git", "clone", "-q", "--bare", work, directory / "served" / "app.git")
    async with git_daemon(directory / "served", reachable_address) as url:
        done = await step(
            directory, *place.flags, "--repository=of-git", "--version=1",
            f"--context={url}/app.git#main", "--dockerfile=docker/Image",
            f"--output=type=local,dest={directory / 'tree'}",
        )  # fmt: skip
    assert done.code == 0, done.err
    assert (directory / "tree" / "f").exists(), f"{listing(directory / 'tree')}\n{done.err}"
    assert (directory / "tree" / "f").read_text() == "of main\n"


def listing(tree: Path) -> list[str]:
    """The names in a tree, for a message."""
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


@asynccontextmanager
async def git_daemon(served: Path, address: str) -> AsyncIterator[str]:
    """Serve the repositories below a directory."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    child = await asyncio.create_subprocess_exec(
        "git", "daemon", "--export-all", "--reuseaddr", f"--base-path={served}",
        f"--listen={address}", f"--port={port}", "--verbose", "--informative-errors",
        stderr=asyncio.subprocess.PIPE,
        process_group=0,
    )  # fmt: skip
    try:
        assert child.stderr is not None
        while b"Ready to rumble" not in await child.stderr.readline():
            assert child.returncode is None
        yield f"git://{address}:{port}"
    finally:
        # Git starts another program that serves.
        os.killpg(child.pid, signal.SIGTERM)
        await child.communicate()


async def test_another_cache_is_written_and_read(place: Place, app: Path, directory: Path) -> None:
    cache = directory / "cache"
    common = [*place.flags, "--repository=cached", "--version=1", f"--context={app}"]
    first = await step(directory, *common, f"--cache-to=type=local,dest={cache},mode=max")
    assert first.code == 0, first.err
    assert (cache / "index.json").is_file()
    second = await step(directory, *common, f"--cache-from=type=local,src={cache}")
    assert second.code == 0, second.err
    assert "importing cache manifest" in second.err


async def test_on_a_terminal(place: Place, app: Path, directory: Path) -> None:
    """BuildKit draws there itself, in a process group that is not the terminal's."""
    command_line = [
        "setsid", "--ctty", "--wait", sys.executable, "-m", "buildsvc", "image-build",
        *place.flags, "--repository=terminal", "--version=1", f"--context={app}", "--no-cache",
    ]  # fmt: skip
    code, shown = await asyncio.to_thread(on_terminal, command_line, directory)
    assert code == 0, shown
    assert "[+] Building" in shown
    assert "\x1b[" in shown
    assert "is in the registry" in shown


def on_terminal(argv: list[str], home: Path) -> tuple[int, str]:
    """Run a program on a terminal of its own; return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    env = environment({"HOME": str(home), "TERM": "xterm", "PYTHONPATH": os.getcwd()})
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env) as child:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # EIO: the other end is closed.
            while data := os.read(ours, 65536):
                shown += data
        os.close(ours)
        return child.wait(timeout=60), shown.decode(errors="replace")


async def test_sigterm_in_mid_build(place: Place, directory: Path) -> None:
    app = context(directory / "context", BASE + "RUN echo sleeping-now && sleep 600\n")
    temporary = directory / "tmp"
    temporary.mkdir()
    running = await start_step(
        directory, *place.flags, "--repository=app", "--version=1", f"--context={app}",
        f"--digest-file={directory / 'digest'}", env={"TMPDIR": str(temporary)},
    )  # fmt: skip
    await place.pod.until(lambda state: any(_runs(span) for span in state["timeline"]))
    children = below(running.pid)
    assert any("buildctl" in command_line(pid) for pid in children)
    running.signal(signal.SIGTERM)
    done = await running.end()
    assert done.code == 128 + signal.SIGTERM, done.err
    assert "ended by SIGTERM" in done.err
    assert not [pid for pid in children if "buildctl" in command_line(pid)]
    assert list(temporary.iterdir()) == []
    assert not (directory / "digest").exists()
    # The daemon has ended the build as well, and serves the next one.
    await place.pod.until(lambda state: not any(_runs(span) for span in state["timeline"]))


def _runs(span: dict[str, Any]) -> bool:
    return span["kind"] == "build" and span["end"] is None
