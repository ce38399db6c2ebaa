"""How the template's part of a pod's spec goes into the spec of a pod.

The pod's own settings stay. Where the template needs another one than the pod has, the pod cannot
have the sidecar: neither side is overruled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from buildsvc.webhook.errors import NotInjected

Json = dict[str, Any]

#: What Kubernetes sets where a pod says nothing, in seconds.
_DEFAULT_GRACE = 30
_ONE_VALUE = ("runtimeClassName", "hostUsers")


def refuse_kind(spec: Mapping[str, Any]) -> None:
    """Raise NotInjected for pods in which the sidecar would not work, or would not be safe."""
    if spec.get("hostNetwork"):
        raise NotInjected(
            "hostNetwork: every process of the node could reach the daemon; a pod with the "
            "sidecar needs a network of its own"
        )
    for field in ("shareProcessNamespace", "hostPID"):
        if spec.get(field):
            raise NotInjected(
                f"{field}: other containers could read the store's credentials from the sidecar's "
                "environment; a pod with the sidecar must do without"
            )
    selector = spec.get("nodeSelector") or {}
    system = (spec.get("os") or {}).get("name") or selector.get("kubernetes.io/os") or "linux"
    if system != "linux":
        raise NotInjected(f"the pod is for {system}; the sidecar runs on Linux alone")


def merge_spec(spec: Json, wanted: Mapping[str, Any]) -> None:
    """Put the template's ``wanted`` into a pod's ``spec``. Raises NotInjected for a conflict."""
    for field in _ONE_VALUE:
        if field in wanted:
            _merge_value(spec, field, wanted[field])
    if wanted.get("hostUsers") is False and spec.get("hostIPC"):
        raise NotInjected("hostIPC: it does not go with the user namespace that the template sets")
    spec["volumes"] = _merged("volume", spec.get("volumes") or (), wanted.get("volumes", ()))
    if secrets := wanted.get("imagePullSecrets"):
        own = spec.get("imagePullSecrets") or []
        spec["imagePullSecrets"] = [*own, *(one for one in secrets if one not in own)]
    if security := wanted.get("securityContext"):
        spec["securityContext"] = filled(spec.get("securityContext") or {}, security)
    grace = wanted.get("terminationGracePeriodSeconds", 0)
    # None is Kubernetes' default; 0, at once, is a wish as good as any, and too short.
    own_grace = spec.get("terminationGracePeriodSeconds")
    if grace > (_DEFAULT_GRACE if own_grace is None else own_grace):
        spec["terminationGracePeriodSeconds"] = grace


def merge_client(container: Json, client: Mapping[str, Sequence[Json]]) -> None:
    """Put variables and mounts into a container that builds. Raises NotInjected for a conflict.

    An empty variable of the container is one that a template of pods left out.
    """
    given = {entry["name"] for entry in client["env"]}
    own = [
        entry
        for entry in container.get("env") or ()
        if entry["name"] not in given or entry.get("value") or "valueFrom" in entry
    ]
    names = {entry["name"] for entry in own}
    container["env"] = [*own, *(entry for entry in client["env"] if entry["name"] not in names)]
    mounts = list(container.get("volumeMounts") or ())
    taken = {mount["mountPath"]: mount for mount in mounts}
    for mount in client["volumeMounts"]:
        there = taken.get(mount["mountPath"])
        if there is None:
            mounts.append(mount)
        elif there["name"] != mount["name"]:
            raise NotInjected(
                f"container {container['name']} mounts volume {there['name']} at "
                f"{mount['mountPath']}, where the sidecar's {mount['name']} belongs"
            )
    container["volumeMounts"] = mounts


def filled(own: Mapping[str, Any], more: Mapping[str, Any]) -> Json:
    """Return both, where ``own`` wins."""
    return {**more, **{name: value for name, value in own.items() if value is not None}}


def _merge_value(spec: Json, field: str, value: object) -> None:
    own = spec.get(field)
    if own is None:
        spec[field] = value
    elif own != value:
        raise NotInjected(f"{field} is {own!r} in the pod; the injection template needs {value!r}")


def _merged(what: str, own: Iterable[Json], more: Iterable[Json]) -> list[Json]:
    merged = list(own)
    there = {one["name"]: one for one in merged}
    for one in more:
        if one["name"] not in there:
            merged.append(one)
        elif not _has(there[one["name"]], one):
            raise NotInjected(f"the pod has a {what} {one['name']} that is not the sidecar's")
    return merged


def _has(there: object, wanted: object) -> bool:
    """Whether everything wanted is there; the API server adds defaults to what it is given."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            name in there and _has(there[name], value) for name, value in wanted.items()
        )
    return there == wanted
