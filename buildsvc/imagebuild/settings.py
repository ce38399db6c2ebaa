"""Every option of the step: a flag (``--build-arg``), or a variable (``BUILDSVC_IMAGE_BUILD_ARG``).

docs/image-build.md has the same table. The groups are dataclasses of their own, in the modules
whose names end in ``settings``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from buildsvc.errors import ConfigError
from buildsvc.imagebuild.buildsettings import BuildSettings
from buildsvc.imagebuild.imagesettings import ImageSettings
from buildsvc.imagebuild.placesettings import PlaceSettings
from buildsvc.setting import Collected, WrongSettings, flag_name, read_values, settings_of

PREFIX = "BUILDSVC_IMAGE_"

#: The one option that is a variable only: a command line would show it to the whole pod.
PASSWORD = PREFIX + "REGISTRY_PASSWORD"


@dataclass(frozen=True, kw_only=True)
class Settings(PlaceSettings, BuildSettings, ImageSettings):
    """The options of one step, checked; templates are not filled in yet."""

    @classmethod
    def read(cls, values: Mapping[str, object]) -> Self:
        """Return options of values as people write them. Raises WrongSettings with all of it."""
        known, problems = read_values(SETTINGS, values)
        settings = cls(**known)
        unclear = {name for name, _ in problems}
        problems += [("", text) for names, text in settings.contradictions() if not names & unclear]
        if problems:
            raise WrongSettings(problems)
        return settings

    def contradictions(self) -> list[tuple[frozenset[str], str]]:
        """Return which options cannot go together, and what of that is to be said."""
        return [*self.image_contradictions(), *self.build_contradictions()]


SETTINGS = settings_of(Settings)
"""Every option by name, in the order of the help."""


def load_settings(flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """Return the options of a command line and of variables; what is empty counts as not given.

    Raises ConfigError that lists every problem with its origin.
    """
    found = Collected(SETTINGS)
    for name, value in flags.items():
        if value not in ("", []):
            found.offer(name, value, flag_name(name))
    options = {variable: text for variable, text in environ.items() if variable != PASSWORD}
    found.offer_variables(options, PREFIX)
    settings = None
    try:
        settings = Settings.read(found.values)
    except WrongSettings as error:
        found.complain(error)
    if settings is None or found.problems:
        raise ConfigError("\n".join(["the options are wrong:", *found.problems]))
    return settings
