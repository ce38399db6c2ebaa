"""The demo of the pipelines: its own tests, and that it starts, answers and ends."""

from __future__ import annotations

import os
import subprocess
import urllib.request

from tests.unit.pipelines.places import PIPELINES, checked, checkers

DEMO = PIPELINES / "demo"


def test_its_own_tests_pass() -> None:
    found = checked(checkers() / "web.test", "-test.v", cwd=DEMO)
    assert found.returncode == 0, found.stdout
    assert found.stdout.count("--- PASS") == 2


def test_it_starts_answers_and_ends() -> None:
    environ = {**os.environ, "LISTEN": "127.0.0.1:0"}
    with subprocess.Popen(
        [checkers() / "web"], env=environ, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        address = said.partition("listening on ")[2].partition(",")[0]
        with urllib.request.urlopen(f"http://{address}/?name=you", timeout=10) as answer:
            assert answer.read() == b"Hello, you!\n"
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_the_image_has_the_program_and_nothing_else() -> None:
    """The context is what .dockerignore leaves; a shell in it would be an attacker's."""
    copied = [
        line.split()[1:]
        for line in (DEMO / "Dockerfile").read_text().splitlines()
        if line.startswith(("COPY", "ADD"))
    ]
    kept = [
        line.removeprefix("!")
        for line in (DEMO / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert copied == [["web", "/web"]]
    assert kept == ["web"]
