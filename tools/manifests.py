"""Writes everything in deploy/ that is made of something else; ``make manifests``.

    tools/manifests.py [--check]
    tools/manifests.py --values FILE --output DIRECTORY

The chart's dashboard and the table of its values; the kustomize bases, which are the chart rendered
with deploy/kustomize/values.yaml; the SidecarSets; the seccomp profile as an object of the Security
Profiles Operator. ``--check`` writes nothing and fails where a file differs. With ``--output`` the
chart is rendered with values of yours, to plain manifests with a kustomization.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import chartvalues
import dashboard
import yaml

TREE = Path(__file__).resolve().parent.parent
DEPLOY = TREE / "deploy"
CHART = DEPLOY / "helm/buildsvc"
VALUES = DEPLOY / "kustomize/values.yaml"
KINDS = ("unconfined", "localhost", "userns", "tun")
NAMESPACE = "buildsvc"

_MADE = "# Made by tools/manifests.py of deploy/helm/buildsvc.\n"
_TABLE = ("<!-- values: written by tools/manifests.py -->\n", "<!-- end of values -->\n")
#: Is true of Helm's own installations only.
_HELMS = re.compile(r"^ *app\.kubernetes\.io/managed-by: Helm\n", re.MULTILINE)

Manifests = dict[str, str]


class HelmRefuses(Exception):
    """The chart cannot be rendered with these values."""


@cache
def helm() -> Path:
    """Return the program. Raises FileNotFoundError when it has not been built."""
    script = TREE / "tools/deploy/build.sh"
    found = subprocess.run([script, "path"], check=True, capture_output=True, text=True)
    program = Path(found.stdout.strip(), "helm")
    if not program.exists():
        raise FileNotFoundError(f"{program} is missing; run make setup")
    return program


def render(*options: str, values: Path | None = None, namespace: str = NAMESPACE) -> Manifests:
    """Return what ``helm template`` makes for a namespace, text by template.

    Raises HelmRefuses with Helm's words.
    """
    command = [str(helm()), "template", "buildsvc", str(CHART), f"--namespace={namespace}"]
    command += options
    if values is not None:
        command.append(f"--values={values}")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise HelmRefuses(done.stderr.strip())
    found: Manifests = {}
    for document in re.split(r"^---\n", done.stdout, flags=re.MULTILINE):
        source = re.match(r"# Source: buildsvc/templates/(\S+)\n", document)
        if source and (text := document[source.end() :]).strip():
            name = source[1]
            found[name] = f"{found[name]}---\n{text}" if name in found else text
    return found


def plain(text: str) -> str:
    """Return manifests as they are without Helm."""
    return _MADE + _HELMS.sub("", text).rstrip("\n") + "\n"


def kustomization(resources: Sequence[str], *more: str, component: bool = False) -> str:
    """Return a kustomization.yaml."""
    kind = "v1alpha1\nkind: Component" if component else "v1beta1\nkind: Kustomization"
    lines = [f"{_MADE}apiVersion: kustomize.config.k8s.io/{kind}", "resources:"]
    return "\n".join([*lines, *(f"  - {name}" for name in resources), *more]) + "\n"


def kustomize_files() -> Manifests:
    """Return the plain manifests by path below deploy/kustomize."""
    files: Manifests = {}
    shared: Manifests | None = None
    for kind in KINDS:
        made = render(f"--set=cluster.kind={kind}", values=VALUES)
        mine = [name for name in ("build-namespaces.yaml", "runtimeclass.yaml") if name in made]
        files |= {f"kinds/{kind}/{name}": plain(made.pop(name)) for name in mine}
        pod, made["webhook.yaml"] = _pod_template(made["webhook.yaml"])
        files[f"kinds/{kind}/pod.yaml"] = _MADE + pod
        files[f"kinds/{kind}/kustomization.yaml"] = kustomization(
            ["../../base", *mine],
            "# Its name ends in a digest: another template is another ConfigMap, and other pods.",
            "configMapGenerator:",
            "  - name: buildsvc-webhook",
            f"    namespace: {NAMESPACE}",
            "    files: [pod.yaml]",
        )
        files[f"examples/{kind}/example.yaml"] = plain(made.pop("example.yaml"))
        files[f"examples/{kind}/kustomization.yaml"] = kustomization(["example.yaml"])
        common = {name: plain(text) for name, text in made.items()}
        if shared not in (None, common):
            raise ValueError(f"what all kinds of clusters share differs for {kind}")
        shared = common
    assert shared is not None
    for part in ("gc", "monitoring"):
        files[f"components/{part}/{part}.yaml"] = shared.pop(f"{part}.yaml")
        files[f"components/{part}/kustomization.yaml"] = kustomization(
            [f"{part}.yaml"], component=True
        )
    files |= {f"base/{name}": text for name, text in shared.items()}
    files["base/kustomization.yaml"] = kustomization(["namespace.yaml", *sorted(shared)])
    return files


def _pod_template(webhook: str) -> tuple[str, str]:
    """Take the ConfigMap out of the webhook's manifests; return its pod.yaml, and the rest."""
    documents = webhook.split("---\n")
    (found,) = [one for one in documents if yaml.safe_load(one)["kind"] == "ConfigMap"]
    pod = yaml.safe_load(found)["data"]["pod.yaml"]
    return pod, "---\n".join(one for one in documents if one is not found)


def sidecarset_files() -> Manifests:
    """Return the SidecarSets by name below deploy/sidecarset."""
    options = ("--set=webhook.enabled=false,sidecarSet.enabled=true",)
    return {
        f"{kind}.yaml": plain(
            render(*options, f"--set=cluster.kind={kind}", values=VALUES)["sidecarset.yaml"]
        )
        for kind in KINDS
    }


def seccomp_object() -> str:
    """Return the profile as the Security Profiles Operator takes it."""
    profile = json.loads((DEPLOY / "seccomp/buildsvc.json").read_text(encoding="utf-8"))
    metadata = {"name": "buildsvc"}
    kind = {"apiVersion": "security-profiles-operator.x-k8s.io/v1beta1", "kind": "SeccompProfile"}
    written: str = yaml.safe_dump({**kind, "metadata": metadata, "spec": profile}, sort_keys=False)
    return "# Made by tools/manifests.py of buildsvc.json.\n" + written


def readme() -> str:
    """Return the chart's README with the table of its values."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    begin, end = _TABLE
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{CHART}/README.md: expected the lines {begin!r} and {end!r}")
    table = chartvalues.table((CHART / "values.yaml").read_text(encoding="utf-8"))
    return f"{before}{begin}{table}{end}{after}"


def chart_files() -> Mapping[Path, str]:
    """Return what is made of the chart itself, by path."""
    return {CHART / "files/dashboard.json": dashboard.text(), CHART / "README.md": readme()}


def rendered_files() -> Mapping[Path, str]:
    """Return everything else, by path. The chart is rendered as it is on disk."""
    profile = {DEPLOY / "seccomp/security-profiles-operator.yaml": seccomp_object()}
    bases = {DEPLOY / "kustomize" / name: text for name, text in kustomize_files().items()}
    sets = {DEPLOY / "sidecarset" / name: text for name, text in sidecarset_files().items()}
    return {**profile, **bases, **sets}


def _write(files: Mapping[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _differing(files: Mapping[Path, str]) -> list[Path]:
    return [
        path
        for path, text in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Writes what is generated in deploy/.")
    parser.add_argument("--check", action="store_true", help="only compare")
    parser.add_argument("--values", type=Path, help="values for --output")
    parser.add_argument("--output", type=Path, help="directory for manifests of your own")
    options = parser.parse_args(argv)
    try:
        return _run(options)
    except (HelmRefuses, FileNotFoundError) as error:
        print(f"manifests: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.output is not None:
        made = {name: plain(text) for name, text in render(values=options.values).items()}
        made["kustomization.yaml"] = kustomization(sorted(made))
        _write({options.output / name: text for name, text in made.items()})
        return 0
    if not options.check:
        _write(chart_files())
        _write(rendered_files())
        return 0
    for path in (wrong := _differing({**chart_files(), **rendered_files()})):
        print(f"{path.relative_to(TREE)} is not what tools/manifests.py makes; run make manifests")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
