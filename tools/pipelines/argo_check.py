"""Check manifests against the fields of Argo Workflows' API and of Kubernetes' pods.

Hera's models are generated from the OpenAPI document of Argo's server, which has Kubernetes' types
in it. They ignore what they do not know, so what goes in is compared with what comes out: a field
that is lost is no field of the API. Run by the Python environment of tools/pipelines.

Prints one line for each problem and returns 1 if there is any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hera.workflows import models
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

KINDS: dict[str, type[BaseModel]] = {
    "Workflow": models.Workflow,
    "WorkflowTemplate": models.WorkflowTemplate,
}


def lost(before: object, after: object, where: str) -> Iterator[str]:
    """Yield where ``after`` lacks what ``before`` has, or has something else."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name in after:
                yield from lost(value, after[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}: there is no such field"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif before != after:
        yield f"{where}: expected {after!r}, found {before!r}"


def problems(model: type[BaseModel], tree: object, where: str) -> Iterator[str]:
    """Yield what is wrong with a document of one kind."""
    try:
        found = model.model_validate(tree)
    except ValidationError as error:
        for one in error.errors():
            place = ".".join(str(part) for part in one["loc"])
            yield f"{where}.{place}: {one['msg']}"
        return
    yield from lost(tree, found.model_dump(mode="json", by_alias=True, exclude_unset=True), where)


def checked(path: Path) -> Iterator[str]:
    """Yield what is wrong with a file; a patch of a pod is a document of its own."""
    yaml = YAML(typ="safe")
    tree = yaml.load(path)
    kind = tree.get("kind")
    if tree.get("apiVersion") != "argoproj.io/v1alpha1" or kind not in KINDS:
        yield f"{path}: expected one of {', '.join(KINDS)} of argoproj.io/v1alpha1, found {kind}"
        return
    yield from problems(KINDS[kind], tree, str(path))
    for template in tree["spec"].get("templates", []):
        if "podSpecPatch" in template:
            patch = yaml.load(template["podSpecPatch"])
            # A patch need not have what a whole pod must.
            spec = {"containers": [], **patch}
            for container in spec["containers"]:
                container.setdefault("image", "unchanged")
            yield from pod_problems(spec, f"{path}: podSpecPatch of {template['name']}")


def pod_problems(spec: dict[str, Any], where: str) -> Iterator[str]:
    """Yield what is wrong with the specification of a pod."""
    fields: dict[str, Any] = {
        "containers": models.Container,
        "initContainers": models.Container,
        "volumes": models.Volume,
    }
    for name, value in spec.items():
        if name in fields:
            for number, one in enumerate(value):
                if name != "volumes":
                    number_ports(one)
                yield from problems(fields[name], one, f"{where}.{name}[{number}]")
        elif name != "terminationGracePeriodSeconds" or not isinstance(value, int):
            yield f"{where}.{name}: this check knows of no such field"


def number_ports(container: dict[str, Any]) -> None:
    """Replace names of ports in probes by their numbers: Hera takes no names there."""
    numbers = {one.get("name"): one["containerPort"] for one in container.get("ports", [])}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        request = container.get(probe, {}).get("httpGet", {})
        # One that the container does not have stays, and is found to be wrong.
        if request.get("port") in numbers:
            request["port"] = numbers[request["port"]]


def main() -> int:
    """Check the files of the command line."""
    found = [problem for name in sys.argv[1:] for problem in checked(Path(name))]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
