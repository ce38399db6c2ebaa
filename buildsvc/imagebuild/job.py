"""The command line of buildctl for a build.

Every process of the pod can read it, so no secret is on it: files and variables that hold some are
named there, and read by buildctl.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from buildsvc.errors import CannotCreate
from buildsvc.imagebuild.inputs import (
    build_arguments,
    check_authority,
    check_secrets,
    find_context,
)
from buildsvc.imagebuild.names import ImageNames
from buildsvc.imagebuild.settings import Settings
from buildsvc.imagebuild.values import fields_of, fields_text


def job_arguments(
    settings: Settings, names: ImageNames | None, variables: Mapping[str, str]
) -> list[str]:
    """Return what comes behind ``buildctl build``, without the files that it writes.

    Raises InputMissing and ConfigError for what the build needs and is not there.
    """
    context = find_context(settings)
    check_secrets(settings, variables)
    check_authority(settings.registry_ca)
    options = [
        *context.options,
        *(f"target={stage}" for stage in (settings.target,) if stage),
        *(f"platform={','.join(settings.platform)}" for _ in settings.platform[:1]),
        *(f"build-arg:{argument}" for argument in build_arguments(settings, variables)),
        *(f"label:{label}" for label in settings.label),
        *_attestations(settings),
        *settings.frontend_opt,
    ]
    many = {
        "local": context.local,
        "opt": options,
        "secret": settings.secret,
        "ssh": settings.ssh,
        "allow": settings.allow,
        "import-cache": settings.cache_from,
        "export-cache": settings.cache_to,
        "output": _outputs(settings, names),
        "registry-auth-tlscontext": _authority(settings, names),
    }
    flags = ["--frontend=dockerfile.v0", f"--progress={settings.progress}"]
    flags += ["--no-cache"] * settings.no_cache
    return flags + [f"--{flag}={value}" for flag, values in many.items() for value in values]


def make_places(settings: Settings) -> None:
    """Make the directories of outputs, which buildctl does not.

    Raises CannotCreate.
    """
    for text in settings.output:
        directory = Path(fields_of(text)["dest"]).absolute().parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotCreate(
                f"the directory {directory} of --output cannot be made", found=str(error.strerror)
            ) from error


def _attestations(settings: Settings) -> list[str]:
    found = []
    if settings.sbom != "off":
        found.append("attest:sbom=" + ("" if settings.sbom == "on" else settings.sbom))
    if settings.provenance != "off":
        found.append(f"attest:provenance=mode={settings.provenance}")
    return found


def _outputs(settings: Settings, names: ImageNames | None) -> list[str]:
    found = []
    if settings.push and names is not None:
        fields = {"type": "image", "name": ",".join(names.references), "push": "true"}
        if settings.registry_insecure:
            fields["registry.insecure"] = "true"
        fields |= _annotations(settings) | _pairs(settings.push_option)
        found.append(fields_text(fields))
    for text in settings.output:
        fields = fields_of(text)
        if fields["type"] in ("oci", "docker"):
            if names is not None and names.tags:
                fields.setdefault("name", ",".join(names.references))
            fields = {**_annotations(settings), **fields}
        found.append(fields_text(fields))
    return found


def _annotations(settings: Settings) -> dict[str, str]:
    return {f"annotation.{name}": value for name, value in _pairs(settings.annotation).items()}


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = (text.partition("=") for text in texts)
    return {name: value for name, _, value in pairs}


def _authority(settings: Settings, names: ImageNames | None) -> list[str]:
    """Return the authority for buildctl, which itself asks for tokens when buildkitd needs one."""
    if names is None or not (settings.registry_ca or settings.registry_insecure):
        return []
    fields = {"host": names.host}
    if settings.registry_ca:
        fields["ca"] = str(settings.registry_ca)
    if settings.registry_insecure:
        fields["insecure"] = "true"
    return [fields_text(fields)]
