"""What is compared, and how long it takes."""

from __future__ import annotations

from dataclasses import replace

from perf.comparison.matrix import Cell, chosen, matrix, quick
from perf.comparison.names import DANCE, PEERS, PLAIN, SCENARIOS, VARIANTS, crowd
from perf.comparison.peers import table


def test_the_base_is_every_peer_on_every_scenario_at_least_five_times() -> None:
    base = [cell for cell in matrix() if cell.axis == "base"]
    assert [cell.scenario for cell in base] == list(SCENARIOS)
    for cell in base:
        # Where both Dockerfiles are one.
        left_out = {PLAIN, DANCE} if cell.scenario == "manyfiles" else set()
        assert set(PEERS) - set(cell.peers) == left_out
        assert cell.rounds >= 5
        assert (cell.change, cell.network, cell.medium) == ("line", "1gbit-1ms", "tmpfs")


def test_every_other_axis_is_varied_alone_on_two_scenarios() -> None:
    base = matrix()[0].about()
    others = [cell for cell in matrix() if cell.axis not in {"base", "size", "pods"}]
    for cell in others:
        about = cell.about()
        differs = {name for name in about if about[name] != base[name]}
        # What is compressed how is the peers' own matter.
        others_own = set() if cell.axis == "compression" else {cell.axis}
        assert differs - {"axis", "scenario", "apart"} == others_own
    for axis in ("change", "network", "medium", "mounts", "compression"):
        assert len({cell.scenario for cell in others if cell.axis == axis}) == 2


def test_pods_at_once_are_the_same_build_many_times() -> None:
    cells = [cell for cell in matrix() if cell.axis == "pods"]
    assert len({cell.scenario for cell in cells}) == 2
    for cell in cells:
        assert set(cell.peers) <= set(table.CROWDED)
        assert {crowd(peer)[1] for peer in cell.peers} == {1, 4, 16}
        # One pod of sixteen is as long as one pod: the estimate knows that there are more.
        assert replace(cell, peers=cell.peers[-1:]).seconds({}) > cell.seconds({}) / 3


def test_what_needs_much_room_is_known() -> None:
    needy = {cell.name.split(" ")[0] for cell in matrix() if cell.large and cell.axis != "change"}
    assert needy == {"manyfiles", "cache-10gb", "cache-100gb"}
    assert {c.change for c in matrix() if c.large and c.axis == "change"} == {"dockerfile", "base"}
    groups = {cell.scenario: cell.at_once for cell in matrix() if cell.at_once}
    assert groups == {"java": 8, "monorepo": 5} | dict.fromkeys(needy, 1)
    assert all(cell.about()["apart"] == (cell.scenario in groups) for cell in matrix())


def test_the_largest_cache_is_simulated_and_says_so() -> None:
    found = [cell.about() for cell in matrix() if cell.axis == "size"]
    assert [about["simulated"] for about in found] == [False, False, False, True]
    assert "simulated" not in matrix()[0].about()


def test_no_two_cells_have_one_name() -> None:
    names = [cell.name for cell in matrix()]
    assert len(set(names)) == len(names)


def test_peers_that_are_compared_are_there() -> None:
    assert set(table.PEERS) == {*PEERS, *VARIANTS}


def test_only_what_was_asked_for() -> None:
    found = chosen(matrix(), axes=["base"], scenarios=["go"], peers=["warm"], rounds=2)
    assert found == [Cell("go", ("warm",), 2)]
    # Cells that none of the peers takes part in.
    assert not chosen(matrix(), axes=["mounts"], peers=["dind-kept"])


def test_what_is_done_takes_no_time() -> None:
    cell = Cell("go", ("warm", "buildsvc-0s"), rounds=3)
    whole = cell.seconds({})
    part = cell.seconds({"warm": [0, 1, 2]})
    assert 0 < part < whole
    assert cell.seconds({"warm": [0, 1, 2], "buildsvc-0s": [0, 1, 2]}) == 0


def test_the_quick_one_takes_a_quarter_of_an_hour() -> None:
    assert sum(cell.seconds({}) for cell in quick()) < 15 * 60
