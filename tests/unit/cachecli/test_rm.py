"""``buildsvc cache rm``: a key's generations go, nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

from buildsvc.cache.signing import SigningKey
from tests.unit.cachecli.stores import BASE, BRANCH, KEY, Console, Made, State
from tests.unit.test_cachecli import key_files

NOW = ("--min-age", "0s", "--settle", "0s")
OWN = State(layers={**BASE.layers, "own": os.urandom(500)}, mounts=BASE.mounts)


def files(made: Made) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in made.directory.rglob("*") if path.is_file()}


def two_keys(made: Made) -> None:
    made.publish(OWN, BRANCH, base=made.publish())


def test_without_yes_nothing_happens(made: Made, console: Console) -> None:
    two_keys(made)
    before = files(made)
    document = console.json("rm", made.url, BRANCH.text)
    assert (document["removed"], document["generations"], document["head"]) == (False, [1], None)
    assert (document["garbage"]["packs"], document["shared"]["packs"]) == (1, 1)
    assert console.run("rm", made.url, BRANCH.text) == 0
    assert console.lines[0] == f"{BRANCH.text}: generations would go: 1"
    assert console.lines[-1] == "nothing is removed without --yes"
    assert files(made) == before


def test_a_key_is_removed(made: Made, console: Console) -> None:
    two_keys(made)
    before = files(made)
    document = console.json("rm", made.url, BRANCH.text, "--yes")
    assert (document["removed"], document["head"]) == (True, 2)
    assert document["published_meanwhile"] is None
    # One head more, and nothing else is touched.
    after = files(made)
    assert after.keys() - before.keys() == {str(made.head(2, BRANCH))}
    assert {name: after[name] for name in before} == before
    assert console.run("show", made.url, BRANCH.text) == 66
    assert console.run("show", made.url, BRANCH.text, "1") == 0, "until it is collected"
    assert console.run("verify", made.url, KEY.text, "--deep") == 0
    use = next(u for u in console.json("du", made.url)["keys"] if u["name"] == BRANCH.text)
    assert (use["generations"], use["bytes"]) == (0, 0)


def test_what_is_left_is_garbage(made: Made, console: Console) -> None:
    two_keys(made)
    document = console.json("rm", made.url, BRANCH.text, "--yes")
    left = console.json("du", made.url)
    assert left["unreferenced_packs"] == document["garbage"]["packs"] == 1
    assert console.run("gc", made.url, *NOW) == 0
    assert made.count("packs") == made.count("roots") == 1
    assert console.run("verify", made.url, KEY.text, "--deep") == 0
    assert console.run("show", made.url, BRANCH.text, "1") == 66


def test_a_removed_key_can_be_published_again(made: Made, console: Console) -> None:
    two_keys(made)
    assert console.run("rm", made.url, BRANCH.text, "--yes") == 0
    made.publish(OWN, BRANCH)
    assert console.run("gc", made.url, *NOW) == 0
    assert console.json("verify", made.url, BRANCH.text, "--deep")["number"] == 4
    assert console.json("show", made.url, BRANCH.text)["repeats"] == 3


def test_there_is_nothing_to_remove_twice(made: Made, console: Console) -> None:
    made.publish()
    assert console.run("rm", made.url, KEY.text, "--yes") == 0
    assert console.lines[-1].startswith("these packs stay until buildsvc cache gc")
    assert console.run("rm", made.url, KEY.text, "--yes") == 66
    assert made.count("keys") == 3


def test_a_key_that_nobody_can_use(made: Made, console: Console) -> None:
    made.publish()
    made.root().write_bytes(b"no root")
    document = console.json("rm", made.url, KEY.text, "--yes")
    assert (document["generations"], document["head"]) == ([], 2)


def test_signed_generations(made: Made, console: Console, tmp_path: Path) -> None:
    pods, _ = key_files(tmp_path, "pods")
    own, _ = key_files(tmp_path, "collector")
    made.publish(signing=SigningKey.read(pods))
    verify = f"--verify-key=acme/protected={tmp_path}"
    for flags in ((), (verify,)):
        assert console.run("rm", made.url, KEY.text, *flags) == 0
        assert console.run("rm", made.url, KEY.text, "--yes", *flags) == 64
    only_pods = f"--verify-key=acme/protected={tmp_path / 'pods.pem'}"
    assert console.run("rm", made.url, KEY.text, "--yes", only_pods, f"--signing-key={own}") == 78
    assert made.count("keys") == 2
    assert console.run("rm", made.url, KEY.text, "--yes", verify, f"--signing-key={own}") == 0
    assert console.run("show", made.url, KEY.text, verify) == 66


def test_an_unknown_key(made: Made, console: Console) -> None:
    made.publish()
    assert console.run("rm", made.url, "app/mian", "--yes") == 66
    assert KEY.text in console.err
