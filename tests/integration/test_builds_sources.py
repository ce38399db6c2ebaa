"""Sources that change between a checkpoint and the next pod: an image never has stale ones."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.contexts import BASE, context, write
from tests.integration.sidecars import Pod, pod

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

#: Everything of the context in one place, and single files beside it.
DOCKERFILE = BASE + "COPY src /src\nCOPY single /single\nRUN ls /src > /list && cat /src/* > /all\n"
FILES = {"src/a": "aaaa\n", "src/b": "bbbb\n", "src/ignored": "iiii\n", "single": "one\n"}


def same_size_and_time(place: Path) -> None:
    for name, content in (("src/a", "AAAA\n"), ("single", "two\n")):
        before = (place / name).stat()
        write(place, {name: content})
        os.utime(place / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = (place / name).stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def same_size_time_and_place(place: Path) -> None:
    """Also of the same inode, and with the old content elsewhere: swapped by name."""
    a, b = place / "src/a", place / "src/b"
    time = a.stat().st_mtime_ns
    a.rename(place / "t")
    b.rename(a)
    (place / "t").rename(b)
    for path in (a, b):
        os.utime(path, ns=(time, time))


def removed(place: Path) -> None:
    (place / "src/b").unlink()


def added(place: Path) -> None:
    write(place, {"src/c": "cccc\n"})


def replaced_by_a_directory(place: Path) -> None:
    (place / "single").unlink()
    write(place, {"single/inside": "deep\n"})


def newly_ignored(place: Path) -> None:
    write(place, {".dockerignore": "src/ignored\n"})


def mode(place: Path) -> None:
    (place / "src/a").chmod(0o755)


def older(place: Path) -> None:
    """As a checkout of an older branch: the time goes back."""
    write(place, {"src/a": "oldie\n"})
    os.utime(place / "src/a", (1, 1))


CHANGES: list[Callable[[Path], None]] = [
    same_size_and_time,
    same_size_time_and_place,
    removed,
    added,
    replaced_by_a_directory,
    newly_ignored,
    mode,
    older,
]


def expected(place: Path) -> dict[str, tuple[str, int]]:
    """What the image has to have below /src and /single: content and permissions."""
    ignored = {"src/ignored"} if (place / ".dockerignore").exists() else set()
    return {name: value for name, value in listed(place).items() if name not in ignored}


def listed(place: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(place)): (path.read_text(), path.stat().st_mode & 0o777)
        for top in ("src", "single")
        for path in (place / top, *(place / top).rglob("*"))
        if path.is_file()
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def contexts(shared: Path) -> Path:
    """One context for each change, all of them built and published by a first pod."""
    async with pod(shared / "one", f"--store={shared / 'store'}") as one:
        for change in CHANGES:
            place = context(shared / change.__name__, DOCKERFILE, FILES)
            assert listed(await one.export(place)) == expected(place)
        assert await one.stop() == 0
    return shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restored(contexts: Path) -> AsyncIterator[Pod]:
    flags = (f"--store={contexts / 'store'}", "--publish=never")
    async with pod(contexts / "two", *flags) as two:
        yield two


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_between_two_pods_is_in_the_image(
    change: Callable[[Path], None], contexts: Path, restored: Pod
) -> None:
    place = contexts / change.__name__
    before = expected(place)
    change(place)
    assert expected(place) != before
    exported = await restored.export(place)
    assert listed(exported) == expected(place)
    names = sorted(name for name in expected(place) if name.startswith("src/"))
    assert (exported / "list").read_text().split() == [name[len("src/") :] for name in names]
    assert (exported / "all").read_text() == "".join(expected(place)[name][0] for name in names)


async def test_a_context_that_changes_while_checkpoints_are_taken(shared: Path) -> None:
    """Each image is of the context of its own time, in this pod and in the next."""
    place = context(shared / "busy", DOCKERFILE, FILES)
    flag = f"--store={shared / 'busy-store'}"
    async with pod(shared / "three", flag) as three:
        for count in range(4):
            write(place, {"src/a": f"{count:04}\n", "single": f"{count:03}\n"})
            assert listed(await three.export(place)) == expected(place)
            await three.checkpoint()
        await three.kill()
    same_size_and_time(place)
    async with pod(shared / "four", flag) as four:
        assert (await four.status())["restored"]
        assert listed(await four.export(place)) == expected(place)
