"""Fixtures of all unit tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.minio import CREDENTIALS, Minio, running


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """A MinIO for the whole session: tests choose prefixes of their own."""
    with running(tmp_path_factory.mktemp("minio")) as minio:
        yield minio


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own S3 settings, and no credentials."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    # Nor a proxy between a test and its server.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def minio(s3_server: Minio, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> Minio:  # noqa: ARG001
    """The server, with its credentials in the environment."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3_server
