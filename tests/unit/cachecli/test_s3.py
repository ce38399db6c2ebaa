"""The commands on a store of a real S3 server."""

from __future__ import annotations

import os
import uuid

from tests.minio import Minio
from tests.unit.cachecli.stores import BASE, BRANCH, KEY, Console, Made, State


def test_all_of_them(minio: Minio, console: Console) -> None:
    made = Made(minio.address(f"cachecli/{uuid.uuid4()}"))
    main = made.publish()
    layers = {**BASE.layers, "two": os.urandom(100_000)}
    made.publish(State(layers=layers, mounts=BASE.mounts), BRANCH, base=main)
    assert console.json("show", made.url, BRANCH.name)["published_unix"] > 1_700_000_000
    difference = console.json("diff", made.url, KEY.text, "1", "1", "--to", BRANCH.text)
    assert [item["description"] for item in difference["added"]] == ["step two"]
    for key in (KEY, BRANCH):
        assert console.run("verify", made.url, key.text, "--deep") == 0
    assert console.json("du", made.url)["unreferenced_packs"] == 0
    removed = console.json("rm", made.url, BRANCH.text, "--yes")
    assert console.json("du", made.url)["unreferenced_packs"] == removed["garbage"]["packs"] == 1
    # Seconds of its clock begin earlier than what its lists show in milliseconds.
    while console.json("du", made.url)["unreferenced_packs"]:
        assert console.run("gc", made.url, "--min-age", "0s", "--settle", "0s") == 0
    assert console.run("verify", made.url, KEY.text, "--deep") == 0
    assert console.run("verify", made.url, BRANCH.text, "1") == 66
    assert console.run("show", made.url, "app/mian") == 66
