"""A cache in a bucket of a real S3 server, from one pod to the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.memory import in_memory
from tests.integration.proctree import below
from tests.integration.sidecars import pod
from tests.integration.steady import Project
from tests.minio import CREDENTIALS, SECRET, Minio, running

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

_ROOM = 1 << 30
_ENVIRONMENT = {**CREDENTIALS, "NO_PROXY": "127.0.0.1"}


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """A server of this module."""
    with running(tmp_path_factory.mktemp("minio")) as server:
        yield server


async def test_from_pod_to_pod(minio: Minio) -> None:
    store = f"--store={minio.address('ci/builds')}"
    with in_memory(_ROOM) as directory:
        project = Project(directory / "context")
        async with pod(directory / "first", store, env=_ENVIRONMENT) as first:
            build, archive = await project.build(first, 0)
            build.ok()
            project.check(archive, 0)
            assert first.process is not None
            for pid in below(first.process.pid):
                # What runs in the user namespace, or leads there, has no credentials.
                assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
            await first.published(1)
            assert await first.stop() == 0
            assert SECRET not in first.log
        async with pod(directory / "second", store, env=_ENVIRONMENT) as second:
            state = await second.status()
            assert state["restored"]["number"] == 1
            build, archive = await project.build(second, 0)
            assert build.ok().ran == []
            project.check(archive, 0)
            assert SECRET not in str(await second.status())
            assert await second.stop() == 0


async def test_wrong_credentials_leave_a_cold_daemon(minio: Minio) -> None:
    environment = {**_ENVIRONMENT, "AWS_SECRET_ACCESS_KEY": "another"}
    with in_memory(_ROOM) as directory:
        project = Project(directory / "context")
        async with pod(directory / "pod", f"--store={minio.address()}", env=environment) as one:
            state = await one.status()
            assert "HTTP 403; what to do: check the credentials" in state["cold_reason"]
            build, archive = await project.build(one, 0)
            build.ok()
            project.check(archive, 0)
