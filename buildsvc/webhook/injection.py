"""Puts the sidecar into a pod: pure, of a pod and a template. docs/injection.md has the rules."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from buildsvc.errors import ConfigError
from buildsvc.keynames import key_names, variables_of
from buildsvc.webhook.annotations import INJECTED, PREFIX, Wish, asks, wish
from buildsvc.webhook.errors import NotInjected
from buildsvc.webhook.merging import filled, merge_client, merge_spec, refuse_kind
from buildsvc.webhook.template import Template
from buildsvc.webhook.variables import copied, literal

Json = dict[str, Any]


@dataclass(frozen=True)
class Injection:
    """What came of a pod: ``pod`` is the new one, None where it stays as it is.

    ``present``: it has a container of the sidecar's name. ``refused``: ``reason`` says why.
    """

    what: Literal["injected", "not-asked", "present", "refused"]
    pod: Json | None = None
    reason: str = ""


def inject(pod: Mapping[str, Any], template: Template) -> Injection:
    """Return the pod with the sidecar in it, if it asks for it and can have it."""
    annotations = _annotations(pod)
    try:
        if not asks(annotations):
            return Injection("not-asked")
        if _has_container(pod, template.sidecar["name"]):
            return Injection("present")
        return Injection("injected", _injected(pod, template, wish(annotations, template.allow)))
    except NotInjected as error:
        return Injection("refused", reason=str(error))


def _annotations(pod: Mapping[str, Any]) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}


def _has_container(pod: Mapping[str, Any], name: str) -> bool:
    spec = pod["spec"]
    kinds = ("initContainers", "containers")
    return any(one["name"] == name for kind in kinds for one in spec.get(kind) or ())


def _injected(pod: Mapping[str, Any], template: Template, wished: Wish) -> Json:
    made: Json = copy.deepcopy(dict(pod))
    spec: Json = made["spec"]
    refuse_kind(spec)
    sidecar = _sidecar(spec, template, wished)
    for container in _clients(spec, wished):
        merge_client(container, copy.deepcopy(template.client))
    merge_spec(spec, copy.deepcopy(template.spec))
    # Before the others, so that it restores while they work.
    spec["initContainers"] = [sidecar, *(spec.get("initContainers") or ())]
    metadata = made.setdefault("metadata", {})
    for kind in ("labels", "annotations"):
        if more := template.metadata.get(kind):
            metadata[kind] = filled(metadata.get(kind) or {}, more)
    metadata["annotations"] = {**metadata["annotations"], INJECTED: template.digest}
    return made


def _clients(spec: Json, wished: Wish) -> list[Json]:
    containers: list[Json] = spec["containers"]
    if wished.containers is None:
        return containers
    named = {one["name"]: one for one in [*containers, *(spec.get("initContainers") or ())]}
    for name in wished.containers:
        if name not in named:
            raise NotInjected(
                f"{PREFIX}containers: there is no container {name!r}; there are {', '.join(named)}"
            )
    return [named[name] for name in dict.fromkeys(wished.containers)]


def _sidecar(spec: Json, template: Template, wished: Wish) -> Json:
    sidecar = copy.deepcopy(template.sidecar)
    env: list[Json] = list(sidecar.get("env") or ())
    there = {entry["name"] for entry in env}
    containers = [*spec["containers"], *(spec.get("initContainers") or ())]
    told = [one for one in copied(containers, template.variables) if one["name"] not in there]
    chosen = {_variable(name): value for name, value in wished.settings.items()}
    _refuse_other_variables(wished, template)
    env = [entry for entry in env if entry["name"] not in chosen]
    env += [{"name": name, "value": literal(value)} for name, value in chosen.items()]
    sidecar["env"] = [*env, *told]
    if not any("valueFrom" in entry for entry in told):
        # Else they are not known before the pod runs.
        _refuse_unfilled(sidecar["env"], template.variables)
    return sidecar


def _variable(setting: str) -> str:
    return "BUILDSVC_" + setting.upper().replace("-", "_")


def _refuse_other_variables(wished: Wish, template: Template) -> None:
    """The sidecar's environment holds the store's credentials, and a key's name is seen by many."""
    for setting in ("cache-key", "fallback-key"):
        for text in wished.settings.get(setting, "").split(","):
            if others := variables_of(text) - template.variables if text else None:
                raise NotInjected(
                    f"{PREFIX}{setting}: the variable {min(others)} is not one that the injection "
                    "template has copied to the sidecar; it can name it under variables"
                )


def _refuse_unfilled(env: list[Json], copies: frozenset[str]) -> None:
    """A sidecar whose key cannot be named ends at once, and the pod would wait for it for ever."""
    variables = {entry["name"]: _meant(entry) for entry in env}
    own = variables.get("BUILDSVC_CACHE_KEY", "")
    fallbacks = [text for text in variables.get("BUILDSVC_FALLBACK_KEY", "").split(",") if text]
    try:
        if any(variables_of(text) - copies - set(variables) for text in (own, *fallbacks) if text):
            # Of the template, and perhaps in one of its secrets.
            return
        if own:
            key_names(own, fallbacks, variables)
    except (ConfigError, ValueError) as error:
        raise NotInjected(f"the sidecar would not start: {error}") from None


def _meant(entry: Mapping[str, Any]) -> str:
    return str(entry.get("value") or "").replace("$$", "$")
