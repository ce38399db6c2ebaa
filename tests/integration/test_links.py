"""Two layers with the same files: fetched once, linked on disk, each its own for every build."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.contexts import BASE, context, write
from tests.integration.exports import files
from tests.integration.sidecars import pod

pytestmark = pytest.mark.integration

#: What both stages do to the files that they share; the steps of a pod's rebuild.
CHANGE = (
    "COPY n /n\n"
    "RUN cat /n >> /venv/lib/f1 && echo tail >> /venv/large && chmod 700 /venv/lib/f2 && "
    "sed -i s/three/other/ /venv/lib/f3 && rm /venv/lib/f4 && "
    "dd if=/n of=/venv/lib/f5 conv=notrunc 2>/dev/null && mv /venv/lib/f6 /venv/lib/moved && "
    "touch -d 2001-01-01 /venv/lib/f7\n"
)
DOCKERFILE = (
    BASE
    + "FROM base AS builder\n"
    + "RUN mkdir -p /venv/lib && for i in $(seq 40); do head -c 50000 /dev/urandom > "
    + "/venv/lib/f$i; done && echo three > /venv/lib/f3 && "
    + "head -c 6000000 /dev/urandom > /venv/large && chmod 4755 /venv/lib/f8\n"
    + "RUN cat /venv/large | sha256sum > /before\n"
    + "FROM base AS left\nCOPY --from=builder /venv /venv\n"
    + CHANGE
    + "FROM builder AS right\nRUN cat /venv/large /venv/lib/* | sha256sum > /sum\n"
    # A snapshot that nothing is built on stays active, and is no sibling then.
    + "FROM scratch\nCOPY --from=left / /left\nCOPY --from=right / /right\n"
)


def _linked(pod_root: Path) -> dict[str, set[str]]:
    """Names, within their layers, of the files that lie in several snapshots."""
    found: dict[int, set[tuple[str, str]]] = {}
    for layer in pod_root.glob("epoch-*/snapshots/*/fs"):
        for path in layer.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
                place = (layer.parent.name, str(path.relative_to(layer)))
                found.setdefault(path.stat().st_ino, set()).add(place)
    names: dict[str, set[str]] = {}
    for places in found.values():
        if len({snapshot for snapshot, _ in places}) > 1:
            (name,) = {name for _, name in places}
            names[name] = {snapshot for snapshot, _ in places}
    return names


async def test_equal_layers_are_fetched_once_and_stay_apart(directory: Path) -> None:
    place = context(directory / "context", DOCKERFILE, {"n": "first\n"})
    store = directory / "store"
    async with pod(directory / "one", f"--store={store}") as one:
        expected = files(await one.export(place))
        assert await one.stop() == 0
    async with pod(directory / "two", f"--store={store}", "--restore=complete") as two:
        state = await two.status()
        fetches = [span for span in state["timeline"] if span["kind"] == "fetch"]
        (linked,) = [span for span in fetches if span.get("linked")]
        # Its tree is all that was fetched for the second one.
        assert linked["linked"] == 41
        assert linked["bytes"] < 1_000_000
        names = _linked(two.root)
        assert names.keys() == {"venv/large", *(f"venv/lib/f{n}" for n in range(1, 41))}
        assert {len(snapshots) for snapshots in names.values()} == {2}
        unchanged = await two.build(place)
        assert unchanged.ran == []
        assert files(await two.export(place)) == expected

        # Writes to one of them, in every way that there is, through a real overlay.
        other = directory / "other"
        shutil.copytree(place, other)
        write(other, {"n": "second\n"})
        build = await two.build(other)
        assert not any("sha256sum" in step for step in build.ran)
        got = files(await two.export(other))
        changed = {name for name in got if got[name] != expected[name]}
        assert changed == {"left/n", "left/venv/lib/f1", "left/venv/lib/f5"}

        # And to the other one, by the step that made it.
        (other / "Dockerfile").write_text(
            DOCKERFILE.replace("FROM builder AS right\n", f"FROM builder AS right\n{CHANGE}")
        )
        got = files(await two.export(other))
        sides = {
            name.partition("/")[2]: (got.get(name), got[f"right/{name.partition('/')[2]}"])
            for name in got
            if name.startswith("left/venv/")
        }
        assert all(left == right for left, right in sides.values())
        # The layers themselves are what they were.
        assert _linked(two.root) == names
        (other / "Dockerfile").write_text(DOCKERFILE)
        write(other, {"n": "first\n"})
        assert files(await two.export(other)) == expected
