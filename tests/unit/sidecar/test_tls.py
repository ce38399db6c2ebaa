"""TLS: when the endpoint needs it, and certificates that only this sidecar's clients have."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from buildsvc.errors import CannotCreate, ConfigError
from sidecar.certificates import make_certificates
from sidecar.settings import Settings
from sidecar.sources import load_settings
from sidecar.tls import Certificates, needs_tls


def settings(**flags: str) -> Settings:
    return load_settings(flags, {})


@pytest.mark.parametrize(
    ("tls", "listen", "isolated", "allowed", "expected"),
    [
        ("auto", "127.0.0.1:0", True, "off", False),
        ("auto", "127.0.0.1:0", False, "off", True),
        ("auto", "0.0.0.0:0", True, "off", True),
        ("auto", "127.0.0.1:0", False, "on", False),
        ("on", "127.0.0.1:0", True, "off", True),
        ("on", "127.0.0.1:0", False, "on", True),
        ("off", "127.0.0.1:0", True, "off", False),
        ("off", "127.0.0.1:0", False, "on", False),
        ("off", "0.0.0.0:0", True, "on", False),
    ],
)
def test_tls_is_used_where_run_steps_could_reach_the_endpoint(
    tls: str,
    listen: str,
    isolated: bool,  # noqa: FBT001  a parameter of the test
    allowed: str,
    expected: bool,  # noqa: FBT001
) -> None:
    found = settings(tls=tls, listen=listen, allow_reachable_endpoint=allowed)
    assert needs_tls(found, isolated=isolated) is expected


def test_plain_tcp_in_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match="--allow-reachable-endpoint"):
        needs_tls(settings(tls="off"), isolated=False)


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "server", tmp_path / "client")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """Shake hands over a socket pair; return whom the server took the client for."""
    ours, theirs = socket.socketpair()
    seen: list[str] = []

    def serve() -> None:
        with ours:
            try:
                with server.wrap_socket(ours, server_side=True) as secure:
                    found = secure.getpeercert() or {}
                    seen.append(str(found.get("subject", "")))
                    secure.sendall(b"x")
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with theirs, client.wrap_socket(theirs, server_hostname=name) as secure:
            assert secure.recv(1) == b"x"
    finally:
        theirs.close()
        thread.join()
    return seen[0]


def server_context(made: Certificates) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=made.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(made.cert, made.key)
    return context


def client_context(made: Certificates, *, known: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=made.client.ca)
    if known:
        context.load_cert_chain(made.client.cert, made.client.key)
    return context


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_both_sides_know_each_other(made: Certificates, name: str) -> None:
    assert "buildctl" in handshake(server_context(made), client_context(made), name)


def test_another_name_is_refused(made: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(made), client_context(made), "evil.example")


def test_a_client_without_certificate_is_refused(made: Certificates) -> None:
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        handshake(server_context(made), client_context(made, known=False), "localhost")


def test_another_sidecars_client_is_refused(made: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "s2", tmp_path / "c2")
    mixed = client_context(made, known=False)
    mixed.load_cert_chain(other.client.cert, other.client.key)
    with pytest.raises((ssl.SSLError, OSError, AssertionError)):
        handshake(server_context(made), mixed, "localhost")


def test_a_client_cannot_pose_as_the_server(made: Certificates) -> None:
    posing = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    posing.load_cert_chain(made.client.cert, made.client.key)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(posing, client_context(made), "localhost")


def test_an_own_address_is_in_the_certificate(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "s", tmp_path / "c", host="192.0.2.7")
    handshake(server_context(made), client_context(made), "192.0.2.7")


@pytest.mark.usefixtures("made")
def test_keys_are_private_and_the_authoritys_is_gone(tmp_path: Path) -> None:
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    names = ("ca.pem", "cert.pem", "key.pem")
    assert written == [f"{side}/{name}" for side in ("client", "server") for name in names]
    for path in tmp_path.rglob("*"):
        expected = 0o600 if path.is_file() else 0o700
        assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_shared_volume_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "emptydir"
    shared.mkdir()
    shared.chmod(0o775)
    make_certificates(tmp_path / "s", shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o775


def test_an_impossible_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotCreate):
        make_certificates(tmp_path / "file" / "s", tmp_path / "c")
