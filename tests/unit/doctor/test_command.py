"""What the doctor shows, and what it really tries here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from buildsvc.doctor import command, examine
from buildsvc.doctor.examine import Examination
from buildsvc.doctor.finding import Finding
from buildsvc.doctor.place import Place
from buildsvc.doctor.trials import existing, try_all

FINDINGS = (
    Finding("kernel", "ok", "Linux 6"),
    Finding("tun", "warn", "not there: " + "word " * 30, "chart: cluster.kind tun"),
)


def test_for_people() -> None:
    text = command.shown(Examination(pod=True, kinds=("userns", "unconfined"), findings=FINDINGS))
    first, second, third, *_, last, also = text.splitlines()
    assert first == "ok   kernel: Linux 6"
    assert second.startswith("warn tun: not there")
    assert third.startswith("       word")
    assert "  -> chart: cluster.kind tun" in text.splitlines()
    assert last.startswith("Builds can run here. cluster.kind: userns")
    assert also == "It also fits unconfined."
    assert max(map(len, text.splitlines())) <= 110


def test_when_no_build_can_run() -> None:
    failed = Finding("overlay", "fail", "Invalid argument", "an emptyDir")
    text = command.shown(Examination(pod=True, kinds=(), findings=(*FINDINGS, failed)))
    assert text.splitlines()[-1] == "No build can run here: 1 of 3 checks failed."


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 69)])
def test_exit_code_and_json(
    state: Any, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places: list[Place] = []

    def examined(place: Place) -> Examination:
        places.append(place)
        return Examination(
            pod=False, kinds=("tun",), findings=(Finding("x", state, "seen", "advice"),)
        )

    monkeypatch.setattr(command, "examine", examined)
    monkeypatch.setenv("BUILDSVC_ROOT", "/somewhere")
    assert command.main(["--json"]) == code
    assert places[0].data == Path("/somewhere")
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "place": "host",
        "kinds": ["tun"],
        "builds": code == 0,
        "findings": [{"check": "x", "state": state, "seen": "seen", "advice": "advice"}],
    }
    assert command.main(["--root", "/elsewhere"]) == code
    assert places[1].data == Path("/elsewhere")


def test_the_default_root_is_the_sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    from sidecar.settings import default_root

    monkeypatch.delenv("BUILDSVC_ROOT", raising=False)
    for data in ("/data", None):
        if data is None:
            monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_DATA_HOME", data)
        environ = {} if data is None else {"XDG_DATA_HOME": data}
        assert command._root() == default_root(environ)


def test_what_is_tried_here_works_and_leaves_nothing(tmp_path: Path) -> None:
    place = Place(data=tmp_path / "not" / "there")
    trials = try_all(place)
    # Tests run where builds do: as a user with subordinate ids that may make namespaces.
    assert trials.ids == ""
    assert trials.lease == ""
    assert {name: said for name, said in trials.inside.items() if name != "proc"} == {
        "user": "",
        "mounts": "",
        "overlay": "",
        "network": "",
    }
    assert "proc" in trials.inside
    assert list(tmp_path.iterdir()) == []


def test_without_subordinate_ids_the_rest_is_tried_all_the_same(tmp_path: Path) -> None:
    trials = try_all(Place(data=tmp_path, user="nobody-here", uid=4242, environ={"PATH": "/bin"}))
    assert trials.ids
    assert trials.inside["user"] == ""
    assert trials.inside["overlay"] == ""


def test_a_place_that_forbids_to_gain_rights(tmp_path: Path) -> None:
    done = subprocess.run(
        [*["setpriv", "--no-new-privs"], sys.executable, "-m", "buildsvc", "doctor", "--json",
         f"--root={tmp_path}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    found = {one["check"]: one for one in json.loads(done.stdout)["findings"]}
    assert found["id mapping"]["state"] == "fail"
    assert "allowPrivilegeEscalation: true" in found["id mapping"]["advice"]
    assert found["user namespaces"]["state"] == "ok"


def test_every_check_has_a_name_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildsvc.doctor.network.METADATA", {})
    monkeypatch.delenv("BUILDSVC_STORE", raising=False)
    names = [finding.check for finding in examine.examine(Place()).findings]
    assert len(names) == len(set(names)) == len(examine.CHECKS)
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text()
    assert [name for name in names if f"| {name} |" not in page] == []


def test_a_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    assert existing(tmp_path) == tmp_path
