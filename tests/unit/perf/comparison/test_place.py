"""Stores of a comparison between rounds."""

from __future__ import annotations

from pathlib import Path

from buildsvc.store.local import LocalStore
from perf.comparison.place import Store


async def test_a_store_that_was_emptied_takes_objects_again(tmp_path: Path) -> None:
    served = LocalStore(tmp_path / "store")
    await served.put("packs/one", b"1")

    Store(tmp_path / "store", "http://store").empty()
    await served.put("keys/two", b"2")

    assert [stat.name async for stat in served.list("")] == ["keys/two"]
    await served.close()
