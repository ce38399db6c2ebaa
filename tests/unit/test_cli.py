"""The command line of buildsvc: help, exit codes, and a store's check as it is shown."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import IO

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from buildsvc import cli
from buildsvc.cache import keyfiles
from buildsvc.cache.signing import SigningKey, VerifyKey
from buildsvc.store.check import PROBES
from buildsvc.store.faults import FaultyStore
from buildsvc.store.local import LocalStore
from tests.minio import Minio


def test_the_program() -> None:
    argv = [sys.executable, "-m", "buildsvc", "--version"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("buildsvc ")


@pytest.mark.parametrize("argv", [[], ["store"], ["store", "check", "--help"], ["key", "new"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*argv, "--help"])
    assert ended.value.code == 0
    assert "usage: buildsvc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], 64),
        (["store"], 64),
        (["store", "check"], 64),
        (["store", "check", "/tmp", "--large", "0"], 64),
        (["store", "check", "/tmp", "--large", "much"], 64),
        (["store", "check", "ftp://host"], 78),
        (["store", "check", "s3://key:hunter2@bucket"], 78),
        (["key"], 64),
        (["key", "new", "signing.pem"], 64),
        (["key", "new", "/missing/signing.pem", "/missing/verify.pem"], 73),
        (["key", "show"], 64),
        (["key", "show", "/dev/null"], 78),
    ],
)
def test_what_is_wrong(argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("buildsvc: error: ")
    assert "what to do: " in shown.err or "expected: " in shown.err
    assert "hunter2" not in shown.err


def test_a_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "check", str(tmp_path / "store"), "--large", "1"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == [
        f"ok        {p.name}" for p in PROBES
    ]
    assert lines[-1] == "This store keeps what builds rely on."
    assert shown.err == ""


def test_a_check_of_a_bucket_as_json(minio: Minio, capsys: pytest.CaptureFixture[str]) -> None:
    address = minio.address(f"cli/{uuid.uuid4()}")
    assert cli.main(["store", "check", address, "--json", "--large", "33"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["kept"] is True
    assert document["schema"] == 1
    assert document["left_behind"] == []
    assert [finding["probe"] for finding in document["findings"]] == [p.name for p in PROBES]
    assert shown.err.count("\n") == len(PROBES)


class _Overwriting(FaultyStore):
    async def create(self, name: str, data: bytes) -> None:
        await self._inner.put(name, data)


@pytest.fixture
def lying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "buildsvc.store.open.open_store",
        lambda _: _Overwriting(LocalStore(tmp_path / "store"), []),
    )


@pytest.mark.usefixtures("lying")
def test_a_store_that_lies(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "check", "/a", "--large", "1"]) == 74
    out = capsys.readouterr().out
    assert "BROKEN    create-only: create succeeded although there was an object" in out
    assert "what would break: two builds could publish the same generation" in out
    assert "what to do: use a server" in out
    assert out.endswith("Do not use this store as it is.\n")


@pytest.mark.usefixtures("lying")
def test_a_store_that_lies_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "check", "/a", "--large", "1", "--json"]) == 74
    document = json.loads(capsys.readouterr().out)
    assert document["kept"] is False
    states = {finding["probe"]: finding["state"] for finding in document["findings"]}
    assert states["create-only"] == states["one winner"] == "broken"
    assert states["ranges"] == "kept"


@pytest.mark.usefixtures("s3_environment")
def test_a_store_without_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["store", "check", "s3://bucket"]) == 77
    out = capsys.readouterr().out
    assert "no credentials for the S3 store" in out
    assert out.endswith("This store cannot be used: it could not be tested.\n")


def test_a_store_that_is_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letter").write_text("Dear Sir")
    assert cli.main(["store", "check", str(tmp_path)]) == 77
    assert "letter" in capsys.readouterr().out


def test_a_new_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signing, verify = tmp_path / "signing.pem", tmp_path / "verify.pem"
    assert cli.main(["key", "new", str(signing), str(verify)]) == 0
    name = capsys.readouterr().out.strip()
    assert SigningKey.read(signing).id == VerifyKey.read(verify).id == name
    assert signing.stat().st_mode & 0o777 == 0o600
    assert cli.main(["key", "show", str(signing), str(verify)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{name}  signing  {signing}", f"{name}  verify   {verify}"]


@pytest.mark.parametrize("full", ["signing.pem", "verify.pem"])
def test_a_key_that_cannot_be_written_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(fd: int, mode: str) -> IO[bytes]:
        if not os.readlink(f"/proc/self/fd/{fd}").endswith(full):
            return os.fdopen(fd, mode)
        os.close(fd)
        return Full()

    argv = ["key", "new", str(tmp_path / "signing.pem"), str(tmp_path / "verify.pem")]
    with monkeypatch.context() as patched:
        patched.setattr(keyfiles, "open", opened, raising=False)
        assert cli.main(argv) == 73
    assert list(tmp_path.iterdir()) == []
    assert cli.main(argv) == 0


@pytest.mark.parametrize("there", ["signing.pem", "verify.pem"])
def test_a_new_key_takes_no_old_ones_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    (tmp_path / there).write_text("precious")
    argv = ["key", "new", str(tmp_path / "signing.pem"), str(tmp_path / "verify.pem")]
    assert cli.main(argv) == 73
    assert there in capsys.readouterr().err
    # Nor is half a pair left.
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "precious")]


def test_a_key_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ec.pem"
    path.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    assert cli.main(["key", "show", str(path)]) == 78
    shown = capsys.readouterr()
    assert "expected: Ed25519" in shown.err
    assert path.read_text().splitlines()[1] not in shown.err
