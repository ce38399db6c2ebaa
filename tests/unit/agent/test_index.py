"""The table of snapshots: containerd's rules and errors, and the way to the disk and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.agent.index import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Kind,
    NotFound,
    Row,
    SnapshotIndex,
)
from sidecar.agent.usage import Usage


def create(index: SnapshotIndex, key: str, parent: str = "", kind: Kind = Kind.ACTIVE) -> Row:
    return index.create(index.reserve_id(), kind, key, parent, labels={}, now_ns=1)


def commit(index: SnapshotIndex, name: str, parent: str = "") -> Row:
    create(index, name + "-key", parent)
    return index.commit(name, name + "-key", "", {}, 2)


@pytest.fixture
def index() -> SnapshotIndex:
    made = SnapshotIndex()
    commit(made, "base")
    commit(made, "top", "base")
    return made


def test_a_chain_is_listed_from_the_top(index: SnapshotIndex) -> None:
    assert [row.name for row in index.chain("top")] == ["top", "base"]
    assert index.chain("") == []


def test_walk_goes_in_byte_order(index: SnapshotIndex) -> None:
    for key in ("é", "z", "A", "\U0001f600", "\uffff"):
        create(index, key)
    names = [row.name for row in index.walk()]
    assert names == sorted(names, key=str.encode)
    assert names[-2:] == ["\uffff", "\U0001f600"]


def test_what_create_refuses(index: SnapshotIndex) -> None:
    create(index, "active")
    with pytest.raises(NotFound):
        create(index, "new", "nowhere")
    with pytest.raises(InvalidArgument):
        create(index, "new", "active")
    with pytest.raises(AlreadyExists):
        create(index, "top", "base")
    with pytest.raises(InvalidArgument):
        create(index, "")
    # A missing parent is told before a taken key, as containerd does.
    with pytest.raises(NotFound):
        create(index, "active", "nowhere")


def test_what_commit_refuses(index: SnapshotIndex) -> None:
    create(index, "active", "top")
    create(index, "view", "top", Kind.VIEW)
    create(index, "free")
    with pytest.raises(NotFound):
        index.commit("new", "nowhere", "", {}, 3)
    with pytest.raises(AlreadyExists):
        index.commit("base", "active", "", {}, 3)
    with pytest.raises(AlreadyExists):
        index.commit("active", "active", "", {}, 3)
    with pytest.raises(FailedPrecondition):
        index.commit("new", "view", "", {}, 3)
    with pytest.raises(InvalidArgument):
        index.commit("new", "active", "base", {}, 3)
    with pytest.raises(NotFound):
        index.commit("new", "free", "nowhere", {}, 3)
    with pytest.raises(FailedPrecondition):
        index.commit("new", "free", "view", {}, 3)
    assert index.get("active").kind is Kind.ACTIVE


def test_commit_may_give_a_parent_to_a_snapshot_without_one(index: SnapshotIndex) -> None:
    create(index, "free")
    assert index.commit("grown", "free", "top", {}, 3).parent == "top"
    with pytest.raises(FailedPrecondition):
        index.remove("top")


def test_commit_keeps_the_directory_and_replaces_labels_and_times(index: SnapshotIndex) -> None:
    active = index.create(
        index.reserve_id(), Kind.ACTIVE, "key", "top", labels={"a": "1"}, now_ns=5
    )
    committed = index.commit("name", "key", "", {"b": "2", "empty": ""}, 9)
    assert committed.id == active.id
    assert committed.labels == {"b": "2"}
    assert (committed.created_ns, committed.updated_ns) == (9, 9)
    assert "key" not in index


def test_only_leaves_are_removed(index: SnapshotIndex) -> None:
    create(index, "view", "top", Kind.VIEW)
    with pytest.raises(FailedPrecondition):
        index.remove("top")
    index.remove("view")
    index.remove("top")
    index.remove("base")
    assert len(index) == 0
    with pytest.raises(NotFound):
        index.remove("base")


def test_committed_snapshots_are_not_mounted(index: SnapshotIndex) -> None:
    with pytest.raises(FailedPrecondition):
        index.mountable("top")
    with pytest.raises(NotFound):
        index.mountable("nowhere")


def test_update_changes_what_the_mask_names(index: SnapshotIndex) -> None:
    row = index.update("top", {"l1": "v1", "l2": "v2", "l3": "v3"}, (), 7)
    assert row.labels == {"l1": "v1", "l2": "v2", "l3": "v3"}
    assert (row.created_ns, row.updated_ns) == (2, 7)
    row = index.update("top", {"l1": "new", "l4": "v4"}, ("labels.l1", "labels.l2"), 8)
    assert row.labels == {"l1": "new", "l3": "v3"}
    assert index.update("top", {"l4": "v4"}, ("labels",), 9).labels == {"l4": "v4"}
    with pytest.raises(InvalidArgument):
        index.update("top", {}, ("labels", "parent"), 10)
    assert index.get("top").labels == {"l4": "v4"}
    with pytest.raises(NotFound):
        index.update("nowhere", {}, (), 10)


@pytest.mark.parametrize("label", ["buildkit.mergeUsage", 'with "quotes"', "a.b.c"])
def test_label_keys_may_have_dots(index: SnapshotIndex, label: str) -> None:
    assert index.update("top", {label: "x"}, (f"labels.{label}",), 3).labels == {label: "x"}
    assert index.get("top").field(["labels", *label.split(".")]) == "x"


_names = st.text(min_size=1, max_size=8)


@given(st.dictionaries(_names, _names, max_size=3), st.booleans(), st.integers(0, 2**62))
def test_an_index_comes_back_as_it_was(labels: dict[str, str], lazy: bool, size: int) -> None:  # noqa: FBT001
    index = SnapshotIndex()
    index.restore(
        Row(7, "n", "", Kind.COMMITTED, labels, 3, 4, usage=Usage(size, 2), lazy=lazy),
    )
    back = SnapshotIndex.decode(index.encode())
    assert list(back.walk()) == list(index.walk())
    assert back.reserve_id() == 8


def test_an_id_is_never_used_again_even_after_a_restart(index: SnapshotIndex) -> None:
    used = create(index, "last").id
    index.remove("last")
    assert SnapshotIndex.decode(index.encode()).reserve_id() > used


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\x93\x01", SnapshotIndex().encode().replace(b"\x01", b"\x02", 1)]
)
def test_foreign_bytes_are_no_index(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - msgspec's and ours
        SnapshotIndex.decode(data)


def test_every_change_is_seen_by_the_version(index: SnapshotIndex) -> None:
    seen = [index.version]

    def note() -> None:
        seen.append(index.version)

    row = create(index, "key", "top")
    note()
    index.update("key", {"a": "b"}, (), 3)
    note()
    row = index.commit("name", "key", "", {}, 4)
    note()
    index.set_usage(row, Usage(1, 1))
    note()
    index.set_local(row)
    note()
    index.remove("name")
    note()
    assert len(set(seen)) == len(seen)
