"""Waiting for the sidecar: what is waited for, what is said, and the end of patience."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildsvc.errors import ConfigError, EnvironmentUnfit
from buildsvc.imagebuild.endpoint import Endpoint, EndpointFinder, NotThereYet
from buildsvc.imagebuild.errors import SidecarMissing
from buildsvc.imagebuild.settings import load_settings
from buildsvc.imagebuild.sidecarstatus import Seen
from buildsvc.imagebuild.waiting import SidecarWaiter
from tests.unit.imagebuild.fakes import FakeRunner, FakeStatus

READY = Seen("ready", ready=True)
STARTING = Seen("restoring", ready=False, waiting_for="restoring the cache")


class Finder:
    """Finds nothing a few times."""

    def __init__(self, missing: int = 0) -> None:
        self._missing = missing

    def find(self) -> Endpoint:
        self._missing -= 1
        if self._missing >= 0:
            raise NotThereYet("there is no endpoint file /e")
        return Endpoint("tcp://here:1")


def waiter(
    said: list[str],
    *,
    finder: Finder | None = None,
    status: FakeStatus | None = None,
    buildctl: FakeRunner | None = None,
    limit: float = 60,
) -> SidecarWaiter:
    return SidecarWaiter(
        finder or Finder(), status or FakeStatus([READY]), buildctl or FakeRunner([]), {"A": "1"},
        limit=limit, say=said.append,
    )  # fmt: skip


async def test_a_sidecar_that_is_ready_is_no_news() -> None:
    said: list[str] = []
    buildctl = FakeRunner([])
    assert await waiter(said, buildctl=buildctl).wait() == Endpoint("tcp://here:1")
    assert said == []
    assert buildctl.environments == [{"A": "1"}]


async def test_each_thing_that_is_waited_for_is_said_once() -> None:
    said: list[str] = []
    status = FakeStatus([STARTING, STARTING, READY])
    buildctl = FakeRunner([], answers=[(1, "x\nerror: no certificate\n"), (0, "BuildKit")])
    await waiter(said, finder=Finder(2), status=status, buildctl=buildctl).wait()
    assert said[:-1] == [
        "waiting for the sidecar: there is no endpoint file /e (0 s)",
        "the sidecar at tcp://here:1: restoring the cache (0 s)",
        "waiting for the sidecar at tcp://here:1: no certificate (0 s)",
    ]
    assert said[-1].startswith("the sidecar is ready after ")


async def test_without_a_status_page_the_daemons_answer_counts() -> None:
    assert await waiter([], status=FakeStatus([None])).wait() == Endpoint("tcp://here:1")


@pytest.mark.parametrize(
    ("status", "buildctl", "found"),
    [
        (FakeStatus([STARTING]), FakeRunner([]), "restoring the cache"),
        (FakeStatus([None]), FakeRunner([], answers=[(1, "refused")]), "refused"),
        (FakeStatus([None]), FakeRunner([], answers=[(1, "")]), "buildctl ended with 1"),
    ],
)
async def test_patience_ends(status: FakeStatus, buildctl: FakeRunner, found: str) -> None:
    with pytest.raises(SidecarMissing, match="no sidecar serves builds") as error:
        await waiter([], status=status, buildctl=buildctl, limit=0.3).wait()
    assert "found: " in str(error.value)
    assert found in str(error.value)
    assert "/run/buildsvc" in str(error.value)
    assert error.value.exit_code == 69


async def test_a_hanging_daemon_does_not_outlast_patience() -> None:
    with pytest.raises(SidecarMissing):
        await waiter([], buildctl=FakeRunner([], hangs=True), limit=0.1).wait()


async def test_no_buildctl_is_said_at_once() -> None:
    with pytest.raises(EnvironmentUnfit):
        await waiter([], buildctl=FakeRunner([], missing=True)).wait()


def finder(tmp_path: Path, **flags: object) -> EndpointFinder:
    return EndpointFinder(load_settings({"push": "off", **flags}, {}), tmp_path / "default.json")


def said_by_sidecar(path: Path, tls: Path | None) -> None:
    path.write_text(json.dumps({"url": "tcp://there:2", "tlsdir": str(tls) if tls else None}))


def test_the_default_address(tmp_path: Path) -> None:
    assert finder(tmp_path).find() == Endpoint("tcp://localhost:1234")
    assert finder(tmp_path, address="unix:///s").find().flags == ["--addr=unix:///s"]


def test_the_endpoint_file(tmp_path: Path) -> None:
    said_by_sidecar(tmp_path / "default.json", None)
    assert finder(tmp_path).find() == Endpoint("tcp://there:2")
    named = finder(tmp_path, endpoint_file=str(tmp_path / "named.json"))
    with pytest.raises(NotThereYet, match=r"named\.json"):
        named.find()
    said_by_sidecar(tmp_path / "named.json", None)
    assert named.find() == Endpoint("tcp://there:2")


def test_certificates_are_waited_for(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    said_by_sidecar(tmp_path / "default.json", tls)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        with pytest.raises(NotThereYet, match=f"has no {name}"):
            finder(tmp_path).find()
        tls.mkdir(exist_ok=True)
        (tls / name).touch()
    assert finder(tmp_path).find().flags == ["--addr=tcp://there:2", f"--tlsdir={tls}"]


def test_options_win_over_the_endpoint_file(tmp_path: Path) -> None:
    said_by_sidecar(tmp_path / "default.json", None)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    found = finder(tmp_path, address="tcp://given:3", tls_dir=str(tmp_path)).find()
    assert found == Endpoint("tcp://given:3", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"url": 1, "tlsdir": null}', '{"url": "x"}', "\xff"])
def test_something_else_is_no_endpoint_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "default.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"default\.json is no endpoint file"):
        finder(tmp_path).find()


def test_an_endpoint_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "default.json").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        finder(tmp_path).find()
