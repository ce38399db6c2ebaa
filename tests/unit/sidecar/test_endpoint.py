"""The early bind: what is found without parsing, and that it is corrected afterwards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from buildsvc.errors import CannotCreate, EnvironmentUnfit
from sidecar import endpoint
from sidecar.endpoint import Address, EarlyBind, parse_address
from sidecar.endpoint_file import write_endpoint_file
from sidecar.tls import ClientFiles


@pytest.fixture
def taken() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield Address("127.0.0.1", holder.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:1234", Address("127.0.0.1", 1234)),
        (" tcp://127.0.0.1:0 ", Address("127.0.0.1", 0)),
        ("localhost:80", Address("127.0.0.1", 80)),
        ("[::1]:0", Address("::1", 0)),
        ("[0:0:0:0:0:0:0:1]:5", Address("::1", 5)),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
    ],
)
def test_addresses_are_read_and_written_back(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234",
        ":1234",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:0",
        "build.example:1234",
        "127.0.0.1:٣",
        "127.0.0.1\x00:1",
        "[127.0.0.1]:1",
        "unix:///x",
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:1234"):
        parse_address(text)


def test_loopback_is_told_from_what_others_reach() -> None:
    assert parse_address("127.1.2.3:1").loopback
    assert parse_address("[::1]:1").loopback
    assert not parse_address("0.0.0.0:1").loopback
    assert not parse_address("[::]:1").loopback


@pytest.mark.parametrize(
    ("argv", "environ", "expected"),
    [
        ([], {}, "127.0.0.1:1234"),
        (["--listen", "a"], {"BUILDSVC_LISTEN": "b"}, "a"),
        (["--listen=a", "--listen=c"], {}, "c"),
        (["--store", "x", "--listen=a"], {}, "a"),
        ([], {"BUILDSVC_LISTEN": "b"}, "b"),
        (["--listen"], {}, "127.0.0.1:1234"),
    ],
)
def test_prescan_keeps_the_order_of_precedence(
    argv: Sequence[str], environ: Mapping[str, str], expected: str
) -> None:
    assert endpoint.prescan(argv, environ) == expected


@pytest.mark.parametrize(
    "line", ["listen: 127.0.0.1:9", "listen: '127.0.0.1:9'", 'listen:  "127.0.0.1:9"  # here']
)
def test_prescan_finds_the_files_line(tmp_path: Path, line: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"store: x\n{line}\nhttp_listen: y\n", encoding="utf-8")
    assert endpoint.prescan(["--config", str(config)], {}) == "127.0.0.1:9"
    assert endpoint.prescan([], {"BUILDSVC_CONFIG": str(config)}) == "127.0.0.1:9"
    assert endpoint.prescan(["--listen=z"], {"BUILDSVC_CONFIG": str(config)}) == "z"


def test_prescan_leaves_a_missing_file_to_the_settings(tmp_path: Path) -> None:
    assert endpoint.prescan(["--config", str(tmp_path / "none")], {}) == endpoint.DEFAULT_LISTEN


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:0"])
def test_a_client_can_connect_before_anybody_accepts(text: str) -> None:
    with endpoint.bind(parse_address(text)) as listener:
        at = endpoint.bound_address(listener)
        assert at.port != 0
        with socket.create_connection((at.host, at.port), timeout=5):
            pass
        assert not os.get_inheritable(listener.fileno())


def test_a_taken_port_is_refused_with_advice(taken: Address) -> None:
    with pytest.raises(EnvironmentUnfit, match=r"another process listens there.*--listen"):
        endpoint.bind(taken)


def test_a_foreign_address_is_refused() -> None:
    with pytest.raises(EnvironmentUnfit, match="no such address"):
        endpoint.bind(Address("192.0.2.1", 0))


def test_settle_keeps_the_early_socket_only_where_it_fits() -> None:
    early = EarlyBind("localhost:0", endpoint.bind(Address("127.0.0.1", 0)))
    assert endpoint.settle(early, Address("127.0.0.1", 0)) is early.listener
    with endpoint.settle(early, Address("::1", 0)) as other:
        assert other is not early.listener
        assert early.listener.fileno() == -1
    with endpoint.settle(None, Address("127.0.0.1", 0)) as fresh:
        assert fresh.getsockname()[1] != 0


def test_bind_early_leaves_nonsense_to_the_settings() -> None:
    assert endpoint.bind_early(["--listen", "nonsense"], {}) is None


def loaded_by(*modules: str) -> set[str]:
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_endpoint_module_imports_nothing_heavy() -> None:
    loaded = loaded_by("sidecar.__main__")
    assert "sidecar.endpoint" in loaded
    heavy = {"msgspec", "yaml", "asyncio", "logging", "aiohttp", "grpc", "rich", "argparse"}
    assert not heavy & loaded


def test_the_lifecycle_loads_no_library_before_it_is_needed() -> None:
    loaded = loaded_by(
        "sidecar.lifecycle",
        "sidecar.trust",
        "buildsvc.logs",
        "sidecar.surface",
        "sidecar.run",
        "sidecar.cli",
        "buildsvc.store.http",
    )
    assert {"sidecar.epoch", "grpc"} <= loaded
    # A fresh pod's start waits for the processor. The pages and the display come later, and
    # logging is the standard library's.
    heavy = {"aiohttp", "rich", "pygments", "attr", "structlog", "pydantic", "cryptography"}
    assert not heavy & loaded


def test_run_on_a_taken_port_ends_with_ex_unavailable(taken: Address) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "run", "--listen", str(taken)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69
    assert "another process listens there" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_endpoint_file_says_how_to_connect(tmp_path: Path) -> None:
    path = tmp_path / "new" / "endpoint.json"
    write_endpoint_file(path, Address("::1", 7), ClientFiles(tmp_path / "tls"))
    found = json.loads(path.read_text())
    assert found["address"] == "[::1]:7"
    assert found["url"] == "tcp://[::1]:7"
    assert found["tls"] is True
    assert found["tlsdir"] == str(tmp_path / "tls")
    write_endpoint_file(path, Address("127.0.0.1", 8), None)
    found = json.loads(path.read_text())
    assert (found["address"], found["tls"], found["key"]) == ("127.0.0.1:8", False, None)
    assert [entry.name for entry in path.parent.iterdir()] == ["endpoint.json"]


def test_an_impossible_endpoint_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreate):
        write_endpoint_file(tmp_path / "file" / "x.json", Address("127.0.0.1", 8), None)
