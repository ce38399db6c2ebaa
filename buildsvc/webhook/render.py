"""What the webhook would make of a manifest, for people who want to look before they install."""

from __future__ import annotations

from typing import Any

import yaml

from buildsvc.errors import BuildsvcError, ConfigError
from buildsvc.webhook.annotations import INJECT
from buildsvc.webhook.injection import inject
from buildsvc.webhook.template import Template

Json = dict[str, Any]


class NothingInjected(BuildsvcError):
    """A manifest has no pod that gets the sidecar (EX_DATAERR)."""

    exit_code = 65


def rendered(text: str, template: Template) -> str:
    """Return the manifest, one or several documents of YAML, with its pods as they would start.

    Templates of pods in Deployments, Jobs and the like are rendered in their place.

    Raises:
        ConfigError: it is no YAML of Kubernetes' objects.
        NothingInjected: a pod asks for the sidecar and does not get it, or none asks.
    """
    try:
        documents = [one for one in yaml.safe_load_all(text) if one is not None]
    except yaml.YAMLError as error:
        raise ConfigError("the manifest is no YAML", found=str(error)) from error
    made = [_rendered(one, template) for one in documents]
    if not any(injected for _, injected in made):
        raise NothingInjected(
            "no pod of the manifest asks for the sidecar",
            expected=f'the annotation {INJECT}: "true" on a pod, or on the template of pods',
            found=", ".join(str(one.get("kind")) for one in documents) or "no document",
        )
    return yaml.safe_dump_all((one for one, _ in made), sort_keys=False)


def _rendered(document: object, template: Template) -> tuple[Json, bool]:
    if not isinstance(document, dict):
        raise ConfigError("expected an object of Kubernetes", found=repr(document)[:80])
    spec = document.get("spec")
    if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
        injection = inject(document, template)
        if injection.what == "refused":
            raise NothingInjected("the pod would start without the sidecar", found=injection.reason)
        return injection.pod or document, injection.pod is not None
    made: Json = {}
    injected = False
    for name, value in document.items():
        # A pod's template is some levels down: in a CronJob, below spec.jobTemplate.spec.
        if isinstance(value, dict):
            made[name], here = _rendered(value, template)
            injected = injected or here
        else:
            made[name] = value
    return made, injected
