"""``buildsvc cache show``: what it says of a generation, and how generations are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildsvc.cache.signing import SigningKey
from tests.unit.cachecli.stores import BASE, BRANCH, FORK, KEY, Console, Made, State
from tests.unit.test_cachecli import key_files

DAMAGED = State(layers=BASE.layers, database=b"no database")
HOSTILE = State(layers={"one": b"x"}, descriptions={"one": "RUN \x1b[2J\x07 make"})


def rows(console: Console) -> dict[str, list[str]]:
    """The table of items, by name."""
    table = [line.split(maxsplit=6) for line in console.lines if line.startswith("  ")]
    return {row[5]: row for row in table if len(row) > 5}


def test_a_generation_as_people_see_it(made: Made, console: Console) -> None:
    first = made.publish()
    made.publish(State(layers={**BASE.layers, "two": b"more" * 30}, blobs=[b"blob"]), base=first)
    assert console.run("show", made.url, KEY.text) == 0
    said = dict(line.split(":", 1) for line in console.lines if not line.startswith(" "))
    said = {name: value.strip() for name, value in said.items()}
    assert said["key"] == KEY.text
    assert said["generation"] == "2"
    assert said["parent"].startswith("1 (")
    assert said["published"].endswith("UTC by the store's clock")
    assert said["signed by"] == "nobody"
    assert said["made by"].endswith("buildkitd v0.33.1")
    assert said["platform"] == "linux/amd64"
    assert said["packs"].startswith("2 of ")
    assert said["items"] == "2 layers, 1 blobs"
    layer = rows(console)["two"]
    assert layer[0] == "layer"
    assert layer[1:3] == ["120", "B"]
    assert layer[6] == "step two"


def test_a_generation_for_programs(made: Made, console: Console) -> None:
    root = made.publish(State(layers=BASE.layers, mounts=BASE.mounts, blobs=[b"blob"]))
    document = console.json("show", made.url, KEY.text, "1")
    assert (document["schema"], document["number"], document["parent"]) == (1, 1, None)
    assert document["key"] == KEY.text
    assert document["published_unix"] == pytest.approx(made.head(1).stat().st_mtime)
    assert document["digest"] == made.newest().digest.hex()
    items = {item["kind"]: item for item in document["items"]}
    assert items.keys() == {"databases", "layer", "cache mount", "blob"}
    assert items["cache mount"]["name"] == "buildkit/0/pip"
    assert items["cache mount"]["description"] == "mount pip"
    assert items["layer"]["bytes"] == len(BASE.layers["one"])
    assert 0 < items["layer"]["stored_bytes"] < items["layer"]["bytes"]
    (pack,) = document["packs"]
    assert pack["bytes"] == root.packs[0].size
    assert pack["used_bytes"] == document["stored_bytes"] == sum(root.chunk_stored)
    assert document["bytes"] == sum(root.chunk_lengths)


@pytest.mark.parametrize(
    "name", [KEY.text, KEY.id, KEY.name, "acme/protected/app/main/linux-amd64/buildkit-0.33"]
)
def test_names_of_a_key(made: Made, console: Console, name: str) -> None:
    made.publish()
    made.publish(key=BRANCH)
    assert console.json("show", made.url, name)["key"] == KEY.text


def test_a_name_of_several_keys(made: Made, console: Console) -> None:
    made.publish()
    made.publish(key=FORK)
    assert console.run("show", made.url, KEY.name) == 64
    assert KEY.text in console.err
    assert FORK.text in console.err


def test_an_unknown_key_and_those_near_to_it(made: Made, console: Console) -> None:
    made.publish()
    made.publish(key=BRANCH)
    for unknown in ("app/mian", KEY.text.replace("main", "mian")):
        assert console.run("show", made.url, unknown) == 66
        assert KEY.text in console.err
    assert console.run("show", made.url, "0" * 32) == 66
    assert "2 keys, such as" in console.err


def test_an_empty_store(made: Made, console: Console) -> None:
    made.directory.mkdir()
    assert console.run("show", made.url, "app/main") == 66
    assert "no key at all" in console.err


def test_an_unknown_generation(made: Made, console: Console) -> None:
    made.publish()
    made.publish()
    assert console.run("show", made.url, KEY.text, "3") == 66
    assert "found: generations 1 to 2" in console.err
    for wrong in ("0", "x", str(2**63)):
        assert console.run("show", made.url, KEY.text, wrong) == 64


def test_a_collected_generation(made: Made, console: Console) -> None:
    for state in (BASE, HOSTILE):
        made.publish(state)
    gc = ("--keep-last", "1", "--min-age", "0s", "--settle", "0s")
    assert console.run("gc", made.url, *gc) == 0
    assert console.run("show", made.url, KEY.text, "1") == 66
    assert "was collected or removed" in console.err
    assert "found: generations 2" in console.err
    # The newest head is that of the collection.
    assert console.run("show", made.url, KEY.text) == 0
    assert console.lines[1].split(maxsplit=1)[1] == "3, which repeats 2"
    assert console.json("show", made.url, KEY.text)["repeats"] == 2


def test_who_has_signed(made: Made, console: Console, tmp_path: Path) -> None:
    signing, verify = key_files(tmp_path, "pods")
    key = SigningKey.read(signing)
    made.publish(signing=key)
    scope = f"--verify-key=acme/protected={verify}"
    document = console.json("show", made.url, KEY.text, scope)
    assert (document["signed_by"], document["verified"]) == (key.id, True)
    assert console.run("show", made.url, KEY.text) == 0
    assert f"key {key.id}, as it says: not verified" in console.out
    made.publish()
    document = console.json("show", made.url, KEY.text, scope)
    assert document["number"] == 1
    assert [passed["number"] for passed in document["passed_over"]] == [2]
    assert console.run("show", made.url, KEY.text, "2", scope) == 65
    _, another = key_files(tmp_path, "another")
    assert console.run("show", made.url, KEY.text, f"--verify-key=acme/protected={another}") == 65


def test_a_newer_head_that_cannot_be_used(made: Made, console: Console) -> None:
    made.publish()
    made.head(2).write_bytes(b"no head")
    assert console.run("show", made.url, KEY.text) == 0
    assert "passed over: generation 2 cannot be used" in console.out
    assert console.run("show", made.url, KEY.text, "2") == 65


def test_without_records(made: Made, console: Console) -> None:
    made.publish(DAMAGED)
    assert console.run("show", made.url, KEY.text) == 0
    assert rows(console)["one"] == ["layer", "550", "B", *rows(console)["one"][3:5], "one"]
    assert console.lines[-1].startswith("nothing is described: ")
    assert console.json("show", made.url, KEY.text)["items_not_described"]


def test_no_room_for_the_records(
    made: Made, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.publish()
    monkeypatch.setattr("tempfile.tempdir", str(made.directory / "nothing"))
    assert console.run("show", made.url, KEY.text) == 73
    assert "set TMPDIR to another directory" in console.err


def test_nothing_controls_the_terminal(made: Made, console: Console) -> None:
    made.publish(HOSTILE)
    assert console.run("show", made.url, KEY.text) == 0
    assert "\x1b" not in console.out
    assert r"RUN \x1b[2J\x07 make" in console.out


def test_the_page_of_help(console: Console, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("ls", "show", "diff", "verify", "du", "rm", "gc"):
        with pytest.raises(SystemExit) as end:
            console.run(command, "--help")
        assert end.value.code == 0
        text = capsys.readouterr().out
        assert "usage: buildsvc cache" in text
        assert f"\n  buildsvc cache {command} s3://" in text
