"""The document has a section for all that was measured, and every round."""

from __future__ import annotations

import pytest

from perf.comparison.names import FIRST, NO_START, WARM
from perf.reporting.markdown import markdown
from tests.unit.perf import fictitious

pytestmark = pytest.mark.usefixtures("few_resamples")

_FEW = (FIRST, NO_START, WARM, "kaniko")


def _cell(**about: object) -> fictitious.Content:
    return fictitious.cell(_FEW, rounds=2, **about)


def _document(cells: dict[str, fictitious.Content]) -> str:
    return markdown(fictitious.book(cells))


def _sections(document: str) -> list[str]:
    return [line[3:] for line in document.splitlines() if line.startswith("## ")]


def test_sections_of_what_there_is() -> None:
    document = _document({"base of python": _cell()})
    assert _sections(document) == [
        "What it must show", "Where a peer is quicker", "base of python", "First builds",
        "What a month costs on OSS", "Every round",
    ]  # fmt: skip
    assert "commit `fictitious`, by `python -m perf run`" in document
    assert "2 processors (No Such Processor),\n16 GiB of memory, kernel 0." in document
    assert "Versions: buildkitd (v0), kaniko (v0)." in document
    assert "files on tmpfs. The link as measured: 970 Mbit/s, 1.1 ms." in document
    assert "go: not measured" in document
    assert "- warm ÷ buildsvc-0s: base of python (" in document


def test_versions_in_several_lines() -> None:
    content = fictitious.sitting(versions={"sidecar": "0.1.0\nbuildkitd v0\n"})
    book = fictitious.book({"base of python": _cell()}, sittings=[content])
    assert "Versions: sidecar (0.1.0 buildkitd v0)." in markdown(book)


@pytest.mark.parametrize("given", [True, False])
def test_a_machine_that_gives_memory_back(*, given: bool) -> None:
    machine = {**fictitious.sitting()["machine"], "gives_memory_back": given}
    sitting = fictitious.sitting(machine=machine)
    document = markdown(fictitious.book({"base of python": _cell()}, sittings=[sitting]))
    assert ("free memory back to its host" in document) is given


def test_sittings_say_which_cells_are_theirs() -> None:
    cells = {"one": _cell(), "two": _cell(axis="change", change="nothing", sitting=1)}
    sittings = [fictitious.sitting(), fictitious.sitting(commit="another")]
    document = markdown(fictitious.book(cells, sittings=sittings))
    assert "commit `another`, by `python -m perf run`" in document
    assert "  Cells: one.\n" in document
    assert "  Cells: two.\n" in document


def test_every_other_axis_has_its_section_and_the_base_beside_it() -> None:
    document = _document(
        {
            "base": _cell(),
            "c": _cell(axis="change", change="dependency"),
            "n": _cell(axis="network", network="200mbit-20ms", link=None),
            "d": _cell(axis="medium", medium="disk"),
            "m": _cell(axis="mounts", mounts=False),
            "as zstd": _cell(axis="compression"),
            "t": _cell(axis="size", scenario="cache-1gb", cache_bytes=1_000_000_000, apart=True),
            "s": _cell(axis="size", cache_bytes=100_000_000_000, simulated=True),
            "the crowd": _cell(axis="pods"),
        }
    )
    titles = [
        *("Other changes", "Other networks", "Other media", "Without cache mounts"),
        *("Caches as gzip and as zstd", "Size of the cache", "Pods at once on one store"),
    ]
    of = [title if title.startswith("Size") else f"{title}: python" for title in titles]
    assert _sections(document)[3:10] == of
    for row in (
        "| line | warm | 2 |",
        "| dependency | warm | 2 |",
        "| 200mbit-20ms | warm | 2 |",
        "| tmpfs | warm | 2 |",
        "| disk | warm | 2 |",
        "| with | warm | 2 |",
        "| without | warm | 2 |",
        "| as zstd | warm | 2 |",
        "| 1 GB | warm | 2 |",
        "| 100 GB (simulated) | warm | 2 |",
        "| the crowd | warm | 2 |",
    ):
        assert row in document
    assert document.count("| 1gbit-1ms | warm | 2 |") == 1
    links = "The link as measured: 1gbit-1ms: 970 Mbit/s, 1.1 ms; 200mbit-20ms: not measured."
    assert document.count(links) == 1


def test_what_went_wrong_stands_beside_the_rounds() -> None:
    failure = {
        "peer": "kaniko", "kind": "again", "round": 2, "began_unix": 1.0,
        "error": "step 1: cancelled\nexited with 1",
    }  # fmt: skip
    cell = _cell(failures=[failure])
    last = cell["records"][-1]
    cell["failures"].append(failure | {each: last[each] for each in ("peer", "kind", "round")})
    last["cold_reason"] = "store-unreachable"
    document = _document({"base": cell})
    assert f"- {last['peer']}, again 2, found no cache: store-unreachable\n" in document
    assert f"- {last['peer']}, again 2, failed: exited with 1 (repeated)\n" in document
    assert "- kaniko, again 3, failed: exited with 1\n" in document
    assert "- kaniko" not in _document({"base": _cell()})


@pytest.mark.parametrize(
    ("axis", "about", "label"),
    [("change", {"change": "nothing"}, "nothing"), ("size", {"cache_bytes": 10**9}, "1 GB")],
)
def test_what_went_wrong_on_another_axis(axis: str, about: dict[str, object], label: str) -> None:
    cell = _cell(axis=axis, **about)
    cell["records"][-1]["cold_reason"] = "time-out"
    peer = cell["records"][-1]["peer"]
    base = _cell()
    base["records"][-1]["cold_reason"] = "of the base"
    document = _document({"base": base, "other": cell})
    assert f"- {label}: {peer}, again 2, found no cache: time-out\n" in document
    assert document.count("of the base") == 1


def test_a_cache_whose_peers_were_measured_one_after_another() -> None:
    document = _document({"a": _cell(axis="size", cache_bytes=10**9, apart=True)})
    assert "1 GB: peers in groups, one after the other: memory cannot hold" in document


def test_both_directions_of_the_link() -> None:
    link = {"round_trip_ms": 1.0, "mbit": 990.4, "mbit_up": 980.6}
    said = "The link as measured: 990 Mbit/s, 981 from builders, 1.0 ms."
    assert said in _document({"base": _cell(link=link)})


def test_peers_that_did_not_take_turns() -> None:
    said = "files on tmpfs. Peers in groups, one after the other: memory cannot hold what all of"
    assert said in _document({"base": _cell(apart=True)})
    assert said not in _document({"base": _cell()})


def test_every_round_and_every_command() -> None:
    cells = {"one": _cell(), "two": _cell(axis="change", change="nothing")}
    _, _, appendix = _document(cells).partition("## Every round")
    for name in cells:
        assert f"### {name}\n" in appendix
    for peer in _FEW:
        assert appendix.count(f"\n| {peer} | again | ") == 4
        assert appendix.count(f"\n{peer}, again:\n\n```\nno-such-builder --as={peer} 'two") == 1


def test_nothing_measured_is_a_document_too() -> None:
    document = _document({})
    assert "No peer was quicker anywhere." in document
    assert document.endswith("</details>\n")
