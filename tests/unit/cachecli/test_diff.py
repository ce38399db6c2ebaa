"""``buildsvc cache diff``: what has become of a generation in another one."""

from __future__ import annotations

import os

from tests.unit.cachecli.stores import BASE, BRANCH, KEY, Console, Made, State

NOISE = os.urandom(4000)
BEFORE = State(
    layers={"one": b"first layer" * 50, "gone": b"old" * 40},
    mounts={"pip": b"wheels" * 90},
    blobs=[b"old blob"],
)
AFTER = State(
    layers={"one": b"first layer" * 50, "two": NOISE, "copy": NOISE},
    mounts={"pip": b"wheels" * 91},
    blobs=[b"new blob"],
)


def test_what_is_new_and_what_is_gone(made: Made, console: Console) -> None:
    made.publish(AFTER, base=made.publish(BEFORE))
    document = console.json("diff", made.url, KEY.text, "1", "2")
    added = {item["description"]: item for item in document["added"] if item["kind"] == "layer"}
    assert added.keys() == {"step two", "step copy"}
    # Both have these bytes, which are stored once.
    assert [item["bytes"] for item in added.values()] == [4000, 4000]
    assert all(item["own_stored_bytes"] >= 4000 for item in added.values())
    assert {i["description"] for i in document["removed"] if i["kind"] == "layer"} == {"step gone"}
    for what, sizes in (("added", [8]), ("removed", [8])):
        assert [i["bytes"] for i in document[what] if i["kind"] == "blob"] == sizes
    changed = {item["kind"]: item for item in document["changed"]}
    assert changed.keys() == {"cache mount", "databases"}
    assert (changed["cache mount"]["bytes_before"], changed["cache mount"]["bytes"]) == (540, 546)
    assert 0 < changed["cache mount"]["own_stored_bytes"] < 546
    (pack,) = document["packs_added"]
    assert 4000 < document["added_stored_bytes"] < 8000 < pack["bytes"] + 4000
    assert document["packs_removed"] == []
    assert document["to"]["stored_bytes"] - document["from"]["stored_bytes"] == (
        document["added_stored_bytes"] - document["removed_stored_bytes"]
    )


def test_a_table_of_it(made: Made, console: Console) -> None:
    made.publish(AFTER, base=made.publish(BEFORE))
    assert console.run("diff", made.url, KEY.text, "1", "2") == 0
    assert console.lines[0].startswith(f"--- {KEY.text} 1: ")
    assert console.lines[1].startswith(f"+++ {KEY.text} 2: ")
    signs = [line.split()[0] for line in console.lines[3:] if line.startswith("  ")]
    assert signs == ["-", "-", "~", "~", "+", "+", "+"]
    assert console.lines[-1].startswith("packs:  1 of ")


def test_the_other_way_round(made: Made, console: Console) -> None:
    made.publish(AFTER, base=made.publish(BEFORE))
    forth = console.json("diff", made.url, KEY.text, "1", "2")
    back = console.json("diff", made.url, KEY.text, "2", "1")
    assert back["added"] == forth["removed"]
    assert back["packs_removed"] == forth["packs_added"]
    assert back["added_stored_bytes"] == forth["removed_stored_bytes"]


def test_generations_of_two_keys(made: Made, console: Console) -> None:
    root = made.publish()
    layers = {**BASE.layers, "two": b"more" * 30}
    made.publish(State(layers=layers, mounts=BASE.mounts), BRANCH, base=root)
    argv = ("diff", made.url, KEY.text, "1", "1", "--to", BRANCH.name)
    document = console.json(*argv)
    assert (document["from"]["key"], document["to"]["key"]) == (KEY.text, BRANCH.text)
    assert [item["description"] for item in document["added"]] == ["step two"]
    assert document["removed"] == []


def test_a_generation_and_itself(made: Made, console: Console) -> None:
    made.publish()
    assert console.run("diff", made.url, KEY.text, "1", "1") == 0
    assert console.lines[2] == "the same layers, cache mounts and blobs"


def test_generations_that_are_not_there(made: Made, console: Console) -> None:
    made.publish()
    assert console.run("diff", made.url, KEY.text, "1", "2") == 66
    assert console.run("diff", made.url, KEY.text, "1", "1", "--to", "nothing") == 66
    assert console.run("diff", made.url, KEY.text, "1") == 64
