"""The order of prefetching that a plan derives from the trace."""

from __future__ import annotations

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from sidecar.losses import Losses
from sidecar.plan import ObjectKey, Plan

COMMITTED = cache_pb2.SNAPSHOT_KIND_COMMITTED
VIEW = cache_pb2.SNAPSHOT_KIND_VIEW


def _root(used: list[str], *, cold: bool) -> cache_pb2.Root:
    """base ← apt ← venv, base ← tools; a view of venv; two blobs."""
    root = cache_pb2.Root(
        packs=[cache_pb2.Pack(digest=b"p" * 32, size=100)],
        chunk_digests=b"".join(bytes([n]) * 32 for n in range(3)),
        chunk_packs=[0, 0, 0],
        chunk_offsets=[0, 10, 20],
        chunk_stored=[10, 10, 5],
        chunk_lengths=[10, 20, 5],
        trace=cache_pb2.Trace(cold=cold, used=used),
    )
    for name, parent in (("base", ""), ("apt", "base"), ("venv", "apt"), ("tools", "base")):
        info = cache_pb2.SnapshotInfo(name=name, parent=parent, kind=COMMITTED)
        root.snapshots.add(info=info, tree=cache_pb2.TreeRef(tree=[0], data=[1]))
    root.snapshots.add(info=cache_pb2.SnapshotInfo(name="view", parent="venv", kind=VIEW))
    root.blobs.add(digest="sha256:a", size=5, data=[2])
    root.blobs.add(digest="sha256:b", size=5, data=[2])
    return root


def _names(keys: list[ObjectKey]) -> list[str]:
    return [key.name for key in keys]


def test_a_restored_pods_trace_is_followed_with_ancestors_first() -> None:
    plan = Plan(_root(["venv", "sha256:b", "tools"], cold=False))
    assert _names(plan.traced()) == ["base", "apt", "venv", "sha256:b", "tools"]


def test_a_cold_pods_trace_is_followed_backwards() -> None:
    plan = Plan(_root(["base", "apt", "venv", "tools"], cold=True))
    assert _names(plan.traced()) == ["base", "tools", "apt", "venv"]


def test_a_view_stands_for_what_it_shows() -> None:
    assert _names(Plan(_root(["view"], cold=False)).traced()) == ["base", "apt", "venv"]


def test_names_that_are_gone_are_passed_over() -> None:
    assert Plan(_root(["gone", "sha256:gone"], cold=False)).traced() == []


def test_the_rest_is_everything_else_once() -> None:
    plan = Plan(_root(["apt"], cold=False))
    rest = plan.rest(plan.traced())
    assert _names(rest) == ["venv", "tools", "sha256:a", "sha256:b"]


def test_what_only_earlier_builds_used_leads_the_rest() -> None:
    root = _root(["apt", "tools", "sha256:b"], cold=False)
    root.trace.earlier = 2
    plan = Plan(root)
    assert _names(plan.traced()) == ["base", "apt"]
    assert _names(plan.rest(plan.traced())) == ["tools", "sha256:b", "venv", "sha256:a"]
    root.trace.earlier = 99
    assert plan.traced() == []


def test_what_is_left_behind_comes_last() -> None:
    root = _root(["apt", "tools", "venv", "sha256:b"], cold=False)
    root.trace.earlier, root.trace.made, root.trace.left_behind = 3, 1, 2
    plan = Plan(root)
    assert _names(plan.rest(plan.traced())) == ["tools", "sha256:a", "venv", "sha256:b"]
    root.trace.left_behind = 99
    # No more than there are.
    assert _names(plan.rest(plan.traced())) == ["tools", "sha256:a", "venv", "sha256:b"]


def test_blobs_that_the_last_build_made_are_nobodys_hurry() -> None:
    root = _root(["apt", "sha256:b", "tools"], cold=False)
    root.trace.earlier, root.trace.made = 2, 2
    plan = Plan(root)
    assert _names(plan.rest(plan.traced())) == ["tools", "venv", "sha256:a", "sha256:b"]


def test_contents_are_located() -> None:
    plan = Plan(_root([], cold=False))
    content = plan.contents[ObjectKey.snapshot("apt")]
    assert [chunk.offset for chunk in content.tree] == [0]
    assert [chunk.length for chunk in content.data] == [20]
    assert content.stored == 20
    assert ObjectKey.snapshot("view") not in plan.contents


def test_what_is_lost_is_lacking() -> None:
    plan = Plan(_root(["apt"], cold=False))
    assert plan.lacking(Losses()) == []
    assert plan.lacking(Losses(packs={b"p" * 32})) == list(plan.contents)
    one_chunk = Losses(chunks={(bytes([2]) * 32, b"p" * 32)})
    assert plan.lacking(one_chunk) == [ObjectKey.blob("sha256:a"), ObjectKey.blob("sha256:b")]
    # The same chunk, corrupt in a pack that this generation does not use.
    assert plan.lacking(Losses(chunks={(bytes([2]) * 32, b"q" * 32)})) == []


def test_what_is_left_out_is_never_fetched() -> None:
    plan = Plan(_root(["apt"], cold=False))
    venv, tools, apt = map(ObjectKey.snapshot, ("venv", "tools", "apt"))
    plan.siblings = {venv: (tools, apt), tools: (venv,), apt: (tools,)}
    plan.leave_out([tools, ObjectKey.snapshot("view"), ObjectKey.blob("sha256:a")])
    assert _names(plan.traced()) == ["base", "apt"]
    assert _names(plan.rest(plan.traced())) == ["venv", "sha256:b"]
    assert plan.siblings == {venv: (apt,)}
