"""AdmissionReview v1: what the API server asks, and what it is answered.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from buildsvc.webhook.injection import Injection

Json = dict[str, Any]

_VERSION, _KIND = "admission.k8s.io/v1", "AdmissionReview"
#: Characters of a warning at most; API servers may cut longer ones anywhere.
_LONGEST_WARNING = 256


class NoReview(ValueError):
    """What came is not a review that can be answered."""


@dataclass(frozen=True)
class Review:
    """One request: ``pod`` is None for what is not the creation of a pod."""

    uid: str
    namespace: str
    dry_run: bool
    pod: Json | None

    @property
    def name(self) -> str:
        """The pod's name, as far as it is known before the pod is there."""
        metadata: Mapping[str, Any] = (self.pod or {}).get("metadata") or {}
        return metadata.get("name") or f"{metadata.get('generateName', '')}*"


def parse_review(body: bytes) -> Review:
    """Return the request of a review. Raises NoReview."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise NoReview(f"it is no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        raise NoReview(f"expected an {_KIND}")
    if document.get("apiVersion") != _VERSION:
        raise NoReview(f"expected version {_VERSION}, found {document.get('apiVersion')!r}")
    request = document.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise NoReview("expected a request with an uid")
    return Review(
        uid=request["uid"],
        namespace=str(request.get("namespace") or ""),
        dry_run=bool(request.get("dryRun")),
        pod=request.get("object") if _creates_pod(request) else None,
    )


def _creates_pod(request: Mapping[str, Any]) -> bool:
    kind, pod = request.get("kind") or {}, request.get("object")
    return (
        (kind.get("group", ""), kind.get("kind")) == ("", "Pod")
        and request.get("operation") == "CREATE"
        and not request.get("subResource")
        and isinstance(pod, dict)
    )


def answer(uid: str, before: Mapping[str, Any] | None, injection: Injection) -> Json:
    """Return the answer to a review: always yes, with a patch, or a warning why there is none."""
    response: Json = {"uid": uid, "allowed": True}
    if injection.pod is not None:
        patch = json.dumps(patch_of(before or {}, injection.pod))
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch.encode()).decode()}
    if injection.reason:
        response["warnings"] = [warning(injection.reason)]
    return {"apiVersion": _VERSION, "kind": _KIND, "response": response}


def warning(reason: str) -> str:
    """Return what the one who creates the pod reads, kubectl's users among them."""
    text = f"buildsvc: the pod starts without the build sidecar: {reason}"
    return text if len(text) <= _LONGEST_WARNING else text[: _LONGEST_WARNING - 1] + "…"


def patch_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Json]:
    """Return a JSON patch (RFC 6902) from one pod to the other.

    It replaces whole members of ``metadata`` and ``spec``, which needs no regard to what is in
    them: between the question and the answer nobody else changes the pod.
    """
    patch: list[Json] = []
    for part in ("metadata", "spec"):
        old: Mapping[str, Any] = before.get(part) or {}
        patch += [
            # "add" also replaces what is there. Our members' names need no escaping.
            {"op": "add", "path": f"/{part}/{name}", "value": value}
            for name, value in after[part].items()
            if name not in old or old[name] != value
        ]
    return patch
