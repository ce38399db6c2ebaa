"""Contents in memory and in files, verified; what is lost is noticed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from buildsvc.cache import chunks
from buildsvc.cache.packs import pack_name
from buildsvc.errors import CorruptObject, ObjectNotFound, UnreadableObject
from buildsvc.store.faults import Fail, FaultyStore, Rule
from sidecar.download import Downloads
from sidecar.losses import Losses
from sidecar.segments import cut
from sidecar.slots import Slots, Urgency
from tests.unit.cache.fakes import MemoryStore, make_catalog


def demand() -> Urgency:
    return Urgency.DEMAND


async def test_content_is_the_same_in_memory_and_in_a_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1000 for number in range(8)]
    (tmp_path / "packs").mkdir()
    catalog = await asyncio.to_thread(make_catalog, tmp_path / "packs", contents)
    order = [5, 0, 7, 5, 1]
    locations = [catalog.locate(chunks.digest(contents[number])) for number in order]
    expected = b"".join(contents[number] for number in order)
    store = MemoryStore()
    (file,) = (tmp_path / "packs").iterdir()
    name = pack_name(locations[0].pack)
    store.objects[name] = file.read_bytes()
    (tmp_path / "down").mkdir()
    slots, trees, lost = Slots(2, 1000, 0), Slots(2, 1000, 0), Losses()
    downloads = Downloads(store, tmp_path / "down", slots, trees=trees, losses=lost)
    assert await downloads.content(locations, demand) == expected
    async with downloads.tree(locations, demand) as path:
        assert path.read_bytes() == expected
        assert trees.staged == len(expected)
    store.objects[name] = bytes(len(store.objects[name]))
    with pytest.raises(CorruptObject):
        await downloads.tree(locations, demand).__aenter__()
    # That they are in one pack says nothing of the others.
    assert lost.chunks <= {(at.digest, at.pack) for at in locations}
    assert lost.suspects == {locations[0].pack}
    assert not lost.packs
    del store.objects[name]
    (plan,) = cut(enumerate(locations[:1]))
    for failing in (
        downloads.content(locations, demand),
        downloads.segment(plan, demand),
    ):
        with pytest.raises(ObjectNotFound):
            await failing
        assert lost.packs == {locations[0].pack}
        lost.packs.clear()
    archived = FaultyStore(store, [Rule("get_range*", name, 0, Fail(UnreadableObject("archived")))])
    downloads = Downloads(archived, tmp_path / "down", slots, trees=trees, losses=lost)
    for failing in (
        downloads.content(locations, demand),
        downloads.segment(plan, demand),
    ):
        with pytest.raises(UnreadableObject):
            await failing
        assert lost.packs == {locations[0].pack}
        lost.packs.clear()
    assert list((tmp_path / "down").iterdir()) == []
    assert (slots.staged, trees.staged) == (0, 0)
