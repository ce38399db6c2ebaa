"""docs/operations.md has every command, setting, metric, field and exit code, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from buildsvc import errors
from buildsvc.setting import flag_name
from sidecar.cli import main
from sidecar.metrics import registry
from sidecar.settings import SETTINGS
from sidecar.status import ColdReason, Generation, Phase, SkipReason, Status


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[3] / "docs" / "operations.md").read_text()


def test_every_setting_and_its_default(page: str) -> None:
    rows = {
        match[1]: match[0] for match in re.finditer(r"^\| `(--[a-z-]+)` \|.*$", page, re.MULTILINE)
    }
    assert rows.keys() == {flag_name(name) for name in SETTINGS}
    for name, field in SETTINGS.items():
        text = field.text.replace("|", r"\|")
        stated = re.search(r" Default: (.*)\.$", text)
        assert text[: stated.start() if stated else None] in rows[flag_name(name)]
        default = stated[1].lower() if stated else field.default
        assert str(default or "none").lower() in rows[flag_name(name)].lower(), name


def test_every_metric(page: str) -> None:
    status = Status()
    generation = Generation("a", "a", 1, 0.0)
    status.restores(generation, 1)
    status.was_published(generation)
    collected = {
        family.name.removeprefix("buildsvc_sidecar_")
        + ("_total" if family.type == "counter" else "")
        for family in registry(status).collect()
    }
    assert names_in(page, "metric") == collected


def names_in(page: str, heading: str) -> set[str]:
    """The names in the first column of the table that begins with this heading."""
    table = page[page.index(f"\n| {heading} |") :].split("\n\n", maxsplit=1)[0]
    cells = [line.split(" | ")[0] for line in table.splitlines()[3:]]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_reason_of_a_cold_start(page: str) -> None:
    assert names_in(page, "why a daemon starts cold") == set(get_args(ColdReason))


def test_every_reason_of_a_skipped_checkpoint(page: str) -> None:
    row = next(line for line in page.splitlines() if "`checkpoints_skipped_total` |" in line)
    stated = re.findall(r"`([a-z-]+)`", row.partition("`reason`:")[2])
    assert set(stated) == set(get_args(SkipReason))


def test_every_field_of_the_status_and_every_phase(page: str) -> None:
    assert names_in(page, "field") == Status().snapshot().keys()
    row = next(line for line in page.splitlines() if line.startswith("| `phase` | `starting`"))
    assert re.findall(r"`([a-z-]+)`", row)[1:] == list(Phase)


def test_every_command(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    offered = re.findall(r"^    ([a-z-]+)\s", capsys.readouterr().out, re.MULTILINE)
    documented = {name.split()[1] for name in names_in(page, "command") if name[:8] == "sidecar "}
    assert documented - {"--version"} == set(offered)


#: Done, a defect, and the signal of a terminal.
_NO_ERRORS = {0, 70, 130}


def test_every_exit_code(page: str) -> None:
    codes = {
        item.exit_code
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.BuildsvcError)
    }
    table = page[page.index("\n| code | when |") :].split("\n\n", maxsplit=1)[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert documented == codes | _NO_ERRORS
