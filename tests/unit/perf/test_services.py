"""What a registry holds of a repository."""

from __future__ import annotations

from typing import Any

from perf.services import Registry


class FakeRegistry(Registry):
    def __init__(self, documents: dict[str, dict[str, Any]]) -> None:
        self._documents = documents

    def _json(self, path: str) -> dict[str, Any]:
        return self._documents[path]


def _blob(digest: str, size: int) -> dict[str, object]:
    return {"digest": digest, "size": size}


def test_each_blob_of_a_repository_counts_once() -> None:
    registry = FakeRegistry(
        {
            "cache/x/tags/list": {"tags": ["one", "two", "old"]},
            "cache/x/manifests/one": {"config": _blob("a", 1), "layers": [_blob("b", 10)]},
            "cache/x/manifests/two": {
                "config": _blob("c", 2),
                "layers": [_blob("b", 10), _blob("d", 20)],
            },
            # As BuildKit wrote a cache before v0.21.
            "cache/x/manifests/old": {"manifests": [_blob("d", 20), _blob("e", 100)]},
        }
    )

    assert registry.stored_bytes("cache/x") == 133
