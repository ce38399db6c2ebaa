"""Collects settings from flags, environment and file, and reports all that is wrong at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from buildsvc.errors import ConfigError
from buildsvc.setting import Collected, WrongSettings, flag_name
from sidecar.settings import SETTINGS, Settings, default_root

PREFIX = "BUILDSVC_"

# Variables of the scripts in tools/, which share the prefix.
_NOT_OURS = frozenset({"CONFIG", "TOOLS", "BIN", "REGISTRY_ADDRESS"})

#: Begins the variables of the image-build step, which may be set for a whole pod.
_STEPS = "IMAGE_"


def load_settings(
    flags: Mapping[str, object], environ: Mapping[str, str], config: Path | None = None
) -> Settings:
    """Return the effective settings.

    ``flags`` has the values given on the command line by setting name. ``config`` is the file
    that ``--config`` names; without it ``BUILDSVC_CONFIG`` may name one. Raises ConfigError
    that lists every problem with its origin.
    """
    found = Collected(SETTINGS)
    for name, value in flags.items():
        found.offer(name, value, flag_name(name))
    ours = {variable: text for variable, text in environ.items() if _may_be_setting(variable)}
    found.offer_variables(ours, PREFIX)
    named = str(config) if config is not None else environ.get(PREFIX + "CONFIG", "")
    if named:
        for key, value in _read_file(Path(named), found.problems).items():
            found.offer(str(key), value, f"{named}: {key}")
    if "root" not in found.values:
        # Left to the settings to complain about, together with the rest.
        with suppress(RuntimeError):
            found.values["root"] = default_root(environ)
    _refuse_secrets(found)
    settings = None
    try:
        settings = Settings.read(found.values)
    except WrongSettings as error:
        found.complain(error)
    if settings is None or found.problems:
        raise ConfigError("\n".join(["the settings are wrong:", *found.problems]))
    return settings.with_origins(found.origins)


def _may_be_setting(variable: str) -> bool:
    name = variable.removeprefix(PREFIX)
    return name not in _NOT_OURS and not name.startswith(_STEPS)


def _read_file(path: Path, problems: list[str]) -> Mapping[object, object]:
    # Not needed, and so not loaded, where there is no file.
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}
    except yaml.YAMLError as error:
        problems.append(f"{path}: is no YAML: {error}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path}: expected a mapping of settings, found {type(content).__name__}")
        return {}
    # An empty value is one that was left out.
    return {key: value for key, value in content.items() if value is not None}


def _refuse_secrets(found: Collected) -> None:
    """Every process of the pod can read a command line: no password may be on it."""
    if found.origins.get("store") == flag_name("store"):
        authority = str(found.values["store"]).partition("://")[2].partition("/")[0]
        if "@" in authority:
            found.problems.append(
                "--store: has a password in it, which other processes can read; no store takes "
                "one in its address"
            )
