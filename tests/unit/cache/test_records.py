"""What BuildKit's records say of snapshots and blobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildsvc.cache import bolt
from buildsvc.cache.records import Record, own_name, read_records
from buildsvc.errors import CorruptObject
from tests.unit.cache.boltfiles import database, freelist, inline, leaf, metadata, records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata_v2.db"


def test_what_a_record_says(path: Path) -> None:
    layer = {
        "id": "one",
        "snapshot": "abc",
        "recordType": "regular",
        "description": "mount / from exec make",
        "blob": "sha256:12",
        "parent": "zero",
    }
    mount = {"id": "two", "recordType": "exec.cachemount", "cache-dir": "ns/pip"}
    path.write_bytes(records(layer, mount))
    bolt.check(path)
    assert list(read_records(path)) == [
        Record("one", "abc", "regular", "mount / from exec make", "sha256:12", ["zero"]),
        # Its snapshot has its own name.
        Record("two", "two", "exec.cachemount", "", "", [], "ns/pip"),
    ]


def test_a_record_that_is_not_finalized_has_the_snapshot_of_another(path: Path) -> None:
    path.write_bytes(records({"id": "one", "snapshot": "abc", "equalMutable": "def"}))
    assert [record.snapshot for record in read_records(path)] == ["def"]


def test_many_records(path: Path) -> None:
    path.write_bytes(records(*({"id": f"{n:04}", "description": "x" * 60} for n in range(200))))
    bolt.check(path)
    assert len(list(read_records(path))) == 200


def test_no_records(path: Path) -> None:
    path.write_bytes(database(freelist(2, []), leaf(3, [])))
    assert list(read_records(path)) == []


@pytest.mark.parametrize("value", [b"{}", b"[1]", b"no JSON", b"[" * 100_000, b"\xff"])
def test_a_field_that_is_none(path: Path, value: bytes) -> None:
    fields = inline([(b"cache.description", value)])
    path.write_bytes(metadata([(b"one", fields, 1)]))
    with pytest.raises(CorruptObject, match="is no value"):
        list(read_records(path))


def test_names_that_containerd_has_put_others_before() -> None:
    assert own_name("buildkit/12/abc") == "abc"
    assert own_name("abc") == "abc"
