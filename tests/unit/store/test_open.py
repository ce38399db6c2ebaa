"""Addresses of stores."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import ConfigError, StoreRefused
from buildsvc.store.http import HttpStore
from buildsvc.store.local import LocalStore
from buildsvc.store.open import open_store
from buildsvc.store.oss import OssStore
from buildsvc.store.s3 import S3Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("address", ["file://{}", "{}", "file://localhost{}"])
async def test_a_directory(tmp_path: Path, address: str) -> None:
    store = open_store(address.format(tmp_path / "a%20b" if "://" not in address else tmp_path))
    assert isinstance(store, LocalStore)
    await store.put("a", b"data")
    directory = tmp_path / "a%20b" if "://" not in address else tmp_path
    assert store.path("a") == directory / "a"
    await store.close()


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("here")
    monkeypatch.chdir("/")
    assert isinstance(store, LocalStore)
    assert store.path("a") == tmp_path / "here" / "a"


def test_percent_encoding_in_a_file_address() -> None:
    store = open_store("file:///a%20b")
    assert isinstance(store, LocalStore)
    assert str(store.path("c")) == "/a b/c"


@pytest.mark.parametrize("address", ["http://localhost:1/base/", "https://store.example"])
def test_a_server(address: str) -> None:
    assert isinstance(open_store(address), HttpStore)


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/a?endpoint=http://localhost:1"])
def test_an_s3_bucket(address: str) -> None:
    assert isinstance(open_store(address), S3Store)


def test_a_store_imports_no_other_stores_client() -> None:
    code = (
        "import sys; from buildsvc.store.open import open_store; open_store('/a');"
        "print(*sorted({'obstore', 'oss2', 'http.client'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "address",
    ["", "a\0b", "ftp://host/a", "oss://bucket", "file://host/a", "http://", "http:///a",
     "http://host/?a=b", "file:///a?b"],
)  # fmt: skip
def test_what_is_no_store(address: str) -> None:
    with pytest.raises(ConfigError, match="expected: "):
        open_store(address)


async def test_a_bucket_without_credentials_is_opened_and_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith(("OSS_", "ALIBABA_CLOUD_")):
            monkeypatch.delenv(name)
    store = open_store("oss://bucket/ci?region=cn-hangzhou&internal=true")
    assert isinstance(store, OssStore)
    for _ in range(2):
        with pytest.raises(StoreRefused, match="no credentials"):
            await store.get("a")
    await store.close()


def test_credentials_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("http://user:hunter2@host/")
    assert "hunter2" not in str(caught.value)
