"""docs/operations.md is complete: every setting, default, metric, field and exit code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from buildsvc import errors
from sidecar.metrics import registry
from sidecar.settings import SETTINGS
from sidecar.sources import flag_name
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
    for family in registry(status).collect():
        name = family.name.removeprefix("buildsvc_sidecar_")
        name += "_total" if family.type == "counter" else ""
        assert f"`{name}`" in page


def rows_after(page: str, heading: str) -> set[str]:
    """The names in the first column of the table that begins with this heading."""
    table = page[page.index(f"| {heading} |") :].split("\n\n", maxsplit=1)[0]
    return set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE))


def test_every_reason_of_a_cold_start(page: str) -> None:
    assert rows_after(page, "why a daemon starts cold") == set(get_args(ColdReason))


def test_every_reason_of_a_skipped_checkpoint(page: str) -> None:
    row = next(line for line in page.splitlines() if "`checkpoints_skipped_total` |" in line)
    stated = re.findall(r"`([a-z-]+)`", row.partition("`reason`:")[2])
    assert set(stated) == set(get_args(SkipReason))


def test_every_field_of_the_status_and_every_phase(page: str) -> None:
    for name in [*Status().snapshot(), *Phase]:
        assert f"`{name}`" in page


def test_every_exit_code(page: str) -> None:
    codes = {
        item.exit_code
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, errors.BuildsvcError)
    }
    for code in codes:
        assert f"\n| {code} | " in page
