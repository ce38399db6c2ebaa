"""The README's results are those of the committed book, here and in this very tree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.comparison.names import HEAD_START, NO_START, WARM
from perf.reporting import readme
from tests.unit.perf import fictitious

_README = f"# Us\n\nBefore.\n\n{readme.BEGIN}\n{readme.END}\n\nAfter.\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(_README)
    (tmp_path / readme.RESULTS).parent.mkdir(parents=True)
    return tmp_path


def _commit_results(tree: Path, **changed: object) -> None:
    cells = {"base": fictitious.cell([NO_START, HEAD_START, WARM], rounds=2)}
    (tree / readme.RESULTS).write_text(json.dumps(fictitious.content(cells, **changed)))


def test_this_tree_shows_its_committed_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert readme.main(["--check"]) == 0, capsys.readouterr().err


def test_without_results_nothing_is_generated(tree: Path) -> None:
    assert readme.main([], tree) == 0
    assert (tree / "README.md").read_text() == _README
    assert readme.main(["--check"], tree) == 0
    (tree / "README.md").write_text(_README.replace(readme.END, f"Fast!\n{readme.END}"))
    assert readme.main(["--check"], tree) == 1


@pytest.mark.usefixtures("few_resamples")
def test_results_are_written_between_the_markers(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _commit_results(tree)
    assert readme.main(["--check"], tree) == 1
    assert "README.md differs from perf/results/base.json: run" in capsys.readouterr().err
    assert readme.main([], tree) == 0
    text = (tree / "README.md").read_text()
    head, _, rest = text.partition(readme.BEGIN)
    between, _, tail = rest.partition(readme.END)
    assert (head, tail) == ("# Us\n\nBefore.\n\n", "\n\nAfter.\n")
    assert between.startswith("\n\n### Beside other builders\n")
    assert "| 20 s head start ÷ warm daemon |" in between
    for name in ("head-start.svg", "no-head-start.svg", "base.md"):
        assert f"(perf/results/{name})" in between
        assert (tree / "perf" / "results" / name).exists()
    assert readme.main(["--check"], tree) == 0
    # Written into what was written before, it is the same.
    assert readme.texts(tree)[tree / "README.md"] == text


@pytest.mark.usefixtures("few_resamples")
def test_whatever_differs_is_said(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _commit_results(tree)
    readme.main([], tree)
    report, plot = (tree / "perf" / "results" / name for name in ("base.md", "head-start.svg"))
    report.write_text(report.read_text() + "It was a good day.\n")
    plot.unlink()
    assert readme.main(["--check"], tree) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" differs")[0] for line in said] == [str(report), str(plot)]
    _commit_results(tree, sittings=[fictitious.sitting(commit="another")])
    assert readme.main(["--check"], tree) == 1
    # Plots of other results are found out too.
    assert {line.split(" differs")[0] for line in capsys.readouterr().err.splitlines()} == {
        str(tree / "README.md"), str(report), str(plot),
        *(str(plot.with_name(f"{name}.svg")) for name in ("no-head-start", "timeline-python")),
    }  # fmt: skip


def test_a_readme_without_markers(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "README.md").write_text(f"{readme.END}\n{readme.BEGIN}\n")
    assert readme.main(["--check"], tree) == 2
    assert "lacks the markers" in capsys.readouterr().err
    (tree / "README.md").write_text(_README)
    (tree / readme.RESULTS).write_text("{}")
    assert readme.main([], tree) == 2
    assert "base.json is no book" in capsys.readouterr().err
