"""``buildsvc cache du``: who takes what, and what nobody names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.roots import encode_root, root_name
from buildsvc.cache.signing import SigningKey
from tests.unit.cachecli.stores import BASE, BRANCH, FORK, KEY, OTHER, Console, Made, State
from tests.unit.test_cachecli import key_files


def size(root: cache_pb2.Root, *packs: int) -> int:
    return sum(root.packs[pack].size for pack in packs)


def by_name(uses: list[Any]) -> dict[str, Any]:
    return {use["name"]: use for use in uses}


def more(name: str) -> State:
    return State(layers={**BASE.layers, name: os.urandom(100)}, mounts=BASE.mounts)


def test_what_is_shared_and_what_is_own(made: Made, console: Console) -> None:
    main = made.publish()
    branch = made.publish(more("branch"), BRANCH, base=main)
    fork = made.publish(more("fork"), FORK, base=main)
    made.publish(more("fork 2"), FORK, base=fork)
    other = made.publish(more("other"), OTHER)
    document = console.json("du", made.url)
    keys = by_name(document["keys"])
    assert list(keys) == sorted([KEY.text, BRANCH.text, FORK.text, OTHER.text])
    base = next(p.size for p in branch.packs if p.digest == main.packs[0].digest)
    own = sum(pack.size for pack in branch.packs) - base
    main_use, branch_use = keys[KEY.text], keys[BRANCH.text]
    assert (main_use["bytes"], main_use["own_bytes"], main_use["own_packs"]) == (base, 0, 0)
    assert (branch_use["bytes"], branch_use["own_bytes"]) == (base + own, own)
    assert (keys[FORK.text]["generations"], keys[FORK.text]["own_packs"]) == (2, 2)
    domains = by_name(document["domains"])
    protected, forks = domains["acme/protected"], domains["acme/forks"]
    assert (protected["bytes"], protected["own_bytes"]) == (base + own, own)
    assert (forks["packs"], forks["own_packs"]) == (3, 2)
    tenants = by_name(document["tenants"])
    assert (tenants["acme"]["packs"], tenants["acme"]["own_packs"]) == (4, 4)
    assert tenants["acme"]["own_bytes"] == tenants["acme"]["bytes"]
    assert tenants["zeta"]["bytes"] == size(other, 0)
    assert document["packs"] == 5
    stored = [p for what in ("packs", "roots") for p in (made.directory / what).rglob("*")]
    assert document["bytes"] == sum(path.stat().st_size for path in stored if path.is_file())
    assert document["unreferenced_bytes"] == 0


def test_one_tenant(made: Made, console: Console) -> None:
    made.publish()
    made.publish(key=OTHER)
    document = console.json("du", made.url, "--tenant", "zeta")
    names = [by_name(document[what]).keys() for what in ("keys", "domains", "tenants")]
    assert names == [{OTHER.text}, {"zeta/protected"}, {"zeta"}]
    assert document["packs"] == 2
    assert console.run("du", made.url, "--tenant", "unknown") == 66
    assert "found: those of acme, zeta" in console.err


def test_what_nobody_names(made: Made, console: Console) -> None:
    root = made.publish()
    digest, stored = encode_root(cache_pb2.Root(format_version=1, platform="none"))
    (made.directory / root_name(digest)).write_bytes(stored)
    made.pack(root).with_name("ab" * 32).write_bytes(b"x" * 1000)
    document = console.json("du", made.url)
    assert (document["unreferenced_packs"], document["unreferenced_roots"]) == (1, 1)
    assert document["unreferenced_bytes"] == 1000 + len(stored)
    assert console.run("du", made.url) == 0
    assert "nothing names 1 packs and 1 roots of 1 kB" in console.lines[-1]


def test_a_table_of_it(made: Made, console: Console) -> None:
    made.publish()
    assert console.run("du", made.url) == 0
    headings = ["generations", "packs", "bytes", "own", "packs", "own", "bytes"]
    assert console.lines[0].split() == headings
    assert console.lines[2].split()[:3] == [KEY.text, "1", "1"]
    titles = [line.strip() for line in console.lines if line.endswith(":")]
    assert titles == ["keys:", "trust domains:", "tenants:"]


def test_a_key_that_cannot_be_read(made: Made, console: Console, tmp_path: Path) -> None:
    signing, verify = key_files(tmp_path, "pods")
    made.publish()
    made.publish(key=OTHER, signing=SigningKey.read(signing))
    scopes = [f"--verify-key={scope}={verify}" for scope in ("acme/protected", "zeta/protected")]
    document = console.json("du", made.url, *scopes, code=65)
    keys = by_name(document["keys"])
    assert "not signed" in keys[KEY.text]["problem"]
    assert (keys[KEY.text]["bytes"], keys[OTHER.text]["problem"]) == (0, "")
    assert console.run("du", made.url, *scopes) == 65
    assert f"{KEY.text} cannot be read: head 1: it is not signed" in console.out


def test_keys_without_a_name(made: Made, console: Console) -> None:
    made.publish()
    heads = made.directory / "keys" / ("0" * 32) / "heads"
    heads.mkdir(parents=True)
    (heads / f"{1:020d}").write_bytes(b"no head")
    assert console.json("du", made.url)["unknown_keys"] == 1
    assert console.run("du", made.url) == 0
    assert "1 keys that nobody can name" in console.out
