"""``buildsvc cache verify``: what it finds wrong, and what that costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.roots import ChunkTable
from buildsvc.cache.signing import SigningKey
from tests.unit.cachecli.stores import BASE, KEY, Console, Made, State
from tests.unit.test_cachecli import key_files

TWO = State(layers={**BASE.layers, "two": os.urandom(9000)}, mounts=BASE.mounts)


def two(made: Made) -> cache_pb2.Root:
    """Generation 2, whose second pack has what is new: layer two and the databases."""
    return made.publish(TWO, base=made.publish())


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def offset(root: cache_pb2.Root, name: str) -> tuple[int, int]:
    """Pack and offset of a layer's content."""
    table = ChunkTable(root)
    (ref,) = (one.tree for one in root.snapshots if one.info.name.endswith(f"/{name}"))
    return root.chunk_packs[ref.data[0]], table[ref.data[0]].offset


def lost(document: Any) -> list[set[str]]:
    return [{one["name"] for one in problem["lost"]} for problem in document["problems"]]


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_generation(made: Made, console: Console, *, deep: bool) -> None:
    root = two(made)
    flags = ("--deep",) if deep else ()
    document = console.json("verify", made.url, KEY.text, *flags)
    assert (document["usable"], document["problems"], document["packs"]) == (True, [], 2)
    assert document["chunks_read"] == (len(root.chunk_packs) if deep else 0)
    assert document["bytes"] == sum(pack.size for pack in root.packs)
    assert console.run("verify", made.url, KEY.text, *flags) == 0
    assert "generation 2: all is as it should be (2 packs of " in console.out


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_pack(made: Made, console: Console, number: int, *, deep: bool) -> None:
    root = two(made)
    made.pack(root, number).unlink()
    flags = ("--deep",) if deep else ()
    document = console.json("verify", made.url, KEY.text, *flags, code=65)
    (problem,) = document["problems"]
    assert (problem["kind"], problem["what"]) == ("pack", "it is missing")
    assert problem["name"] == made.pack(root, number).relative_to(made.directory).as_posix()
    new = {root.chunk_packs[chunk] for chunk in root.databases.data}
    assert document["usable"] == (number not in new)
    assert all(one["bytes"] for one in problem["lost"])


@pytest.mark.parametrize("deep", [False, True])
def test_a_pack_that_ends_early(made: Made, console: Console, *, deep: bool) -> None:
    root = two(made)
    number, start = offset(root, "two")
    path = made.pack(root, number)
    path.write_bytes(path.read_bytes()[: start + 10])
    document = console.json("verify", made.url, KEY.text, *(["--deep"] if deep else []), code=65)
    (problem,) = document["problems"]
    assert problem["what"] == f"it has {start + 10} bytes instead of {root.packs[number].size}"
    assert "buildkit/1/two" in lost(document)[0]
    if deep:
        # What lies before it can be had.
        before = {
            f"buildkit/0/{name}" for name in ("one", "pip") if offset(root, name) < (number, start)
        }
        assert not before & lost(document)[0]


def test_one_bit(made: Made, console: Console) -> None:
    root = two(made)
    number, start = offset(root, "two")
    flip(made.pack(root, number), start + 100)
    assert console.run("verify", made.url, KEY.text) == 0
    document = console.json("verify", made.url, KEY.text, "--deep", code=65)
    assert lost(document) == [{"buildkit/1/two"}]
    (problem,) = document["problems"]
    assert problem["what"] == "1 of its chunks are not what they should be"
    (item,) = problem["lost"]
    assert (item["kind"], item["description"], item["bytes"]) == ("layer", "step two", 9000)
    assert document["usable"]
    # The generation before does not have that layer.
    assert console.run("verify", made.url, KEY.text, "1", "--deep") == 0


def test_what_is_wrong_as_people_see_it(made: Made, console: Console) -> None:
    root = two(made)
    number, start = offset(root, "two")
    flip(made.pack(root, number), start + 100)
    assert console.run("verify", made.url, KEY.text, "--deep") == 65
    assert console.lines[1].strip() == "what is lost by it:"
    assert console.lines[2].split() == ["layer", "9", "kB", "9", "kB", "two", "step", "two"]
    assert "generation 2: damaged; pods build again what is lost" in console.lines[-1]


def test_lost_databases(made: Made, console: Console) -> None:
    root = made.publish()
    chunk = root.databases.data[0]
    flip(made.pack(root), root.chunk_offsets[chunk] + 1)
    document = console.json("verify", made.url, KEY.text, "--deep", code=65)
    assert (document["usable"], lost(document)) == (False, [{"databases"}])
    assert console.run("verify", made.url, KEY.text, "--deep") == 65
    assert "it cannot be used; pods start from an older one" in console.lines[-1]


def test_databases_that_are_none(made: Made, console: Console) -> None:
    made.publish(State(layers=BASE.layers, database=b"no database"))
    assert console.run("verify", made.url, KEY.text) == 0
    document = console.json("verify", made.url, KEY.text, "--deep", code=65)
    assert [problem["kind"] for problem in document["problems"]] == ["databases"]
    assert not document["usable"]


def test_a_tree_that_is_none(made: Made, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: object) -> bytes:
        return b"no tree"

    monkeypatch.setattr("tests.unit.cachecli.stores.serialise", wrong)
    made.publish(State(layers={"one": b"x"}))
    document = console.json("verify", made.url, KEY.text, "--deep", code=65)
    assert {problem["kind"] for problem in document["problems"]} == {"tree", "databases"}
    assert {"buildkit/0/one"} in lost(document)


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: flip(path, 30)])
def test_a_root(made: Made, console: Console, spoil: Callable[[Path], object]) -> None:
    two(made)
    spoil(made.root())
    document = console.json("verify", made.url, KEY.text, code=65)
    (problem,) = document["problems"]
    assert (problem["kind"], document["usable"], document["packs"]) == ("root", False, 0)


def test_heads(made: Made, console: Console) -> None:
    made.publish()
    made.head(2).write_bytes(b"no head")
    document = console.json("verify", made.url, KEY.text, code=65)
    assert (document["number"], document["usable"]) == (1, True)
    (problem,) = document["problems"]
    assert problem["name"] == made.head(2).relative_to(made.directory).as_posix()
    document = console.json("verify", made.url, KEY.text, "2", code=65)
    assert (document["number"], document["usable"]) == (None, False)
    made.head(1).write_bytes(b"no head either")
    document = console.json("verify", made.url, KEY.text, code=65)
    assert len(document["problems"]) == 2
    assert console.run("verify", made.url, KEY.text) == 65
    assert console.lines[-1] == f"{KEY.text}: no generation can be used"


def test_what_was_collected_is_not_wrong(made: Made, console: Console) -> None:
    for state in (BASE, State(layers={"other": b"y"})):
        made.publish(state)
    now = ("--keep-last", "1", "--min-age", "0s", "--settle", "0s")
    assert console.run("gc", made.url, *now) == 0
    assert console.run("verify", made.url, KEY.text, "1") == 66
    assert "was collected or removed" in console.err
    assert console.run("verify", made.url, KEY.text, "2", "--deep") == 0


def test_a_head_in_the_place_of_another_is_not_taken_for_collected(
    made: Made, console: Console, tmp_path: Path
) -> None:
    signing, verify = key_files(tmp_path, "pods")
    key = SigningKey.read(signing)
    root = made.publish(signing=key)
    head = made.newest().head
    made.publish(TWO, signing=key)
    head.nonce = b"another " * 2
    made.head(1).write_bytes(key.sign(head))
    made.pack(root).unlink()
    scope = f"--verify-key=acme/protected={verify}"
    document = console.json("verify", made.url, KEY.text, "1", scope, code=65)
    assert [problem["what"] for problem in document["problems"]] == ["it is missing"]
