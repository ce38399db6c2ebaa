"""Options of the build itself."""

from __future__ import annotations

from dataclasses import dataclass

from buildsvc.imagebuild.values import (
    lines,
    parse_build_arg,
    parse_cache,
    parse_pair,
    parse_platform,
    parse_sbom,
    parse_secret,
    parse_ssh,
    words,
)
from buildsvc.setting import setting
from buildsvc.values import one_of, parse_name, parse_switch, parse_text

_GROUP = "build"


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Fields of the options, and what follows from them alone."""

    context: str = setting(
        parse_text,
        ".",
        "Build context: a directory, or the URL of a Git repository.",
        "DIR|URL",
        _GROUP,
    )
    dockerfile: str = setting(
        parse_text,
        "Dockerfile",
        "Dockerfile: relative to the context, or absolute.",
        "PATH",
        _GROUP,
    )
    target: str = setting(parse_text, "", "Stage to build.", "STAGE", _GROUP)
    build_arg: tuple[str, ...] = setting(
        lines(parse_build_arg),
        (),
        "Build argument; without a value that of the variable NAME. May be repeated.",
        "NAME[=VALUE]",
        _GROUP,
    )
    secret: tuple[str, ...] = setting(
        lines(parse_secret),
        (),
        "Secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE. "
        "May be repeated.",
        "SPEC",
        _GROUP,
    )
    ssh: tuple[str, ...] = setting(
        lines(parse_ssh),
        (),
        "Agent's socket or keys for RUN --mount=type=ssh: default or ID=SOCKET or ID=KEY. "
        "May be repeated.",
        "SPEC",
        _GROUP,
    )
    platform: tuple[str, ...] = setting(
        words(parse_platform),
        (),
        "Platform to build for. May be repeated. Default: the daemon's.",
        "OS/ARCH",
        _GROUP,
    )
    label: tuple[str, ...] = setting(
        lines(parse_pair), (), "Label of the image. May be repeated.", "NAME=VALUE", _GROUP
    )
    annotation: tuple[str, ...] = setting(
        lines(parse_pair),
        (),
        "Annotation of the image's manifest. May be repeated.",
        "NAME=VALUE",
        _GROUP,
    )
    sbom: str = setting(
        parse_sbom,
        "off",
        "Attest a software bill of materials; the generator's image comes from Docker Hub unless "
        "one is named.",
        "on|off|generator=IMAGE",
        _GROUP,
    )
    provenance: str = setting(
        one_of("off", "min", "max"), "off", "Attest how the image was built.", "off|min|max", _GROUP
    )
    cache_from: tuple[str, ...] = setting(
        lines(parse_cache),
        (),
        "Another cache to import, such as type=registry,ref=REFERENCE. May be repeated.",
        "SPEC",
        _GROUP,
    )
    cache_to: tuple[str, ...] = setting(
        lines(parse_cache),
        (),
        "Another cache to export to; it makes the build longer. May be repeated.",
        "SPEC",
        _GROUP,
    )
    no_cache: bool = setting(parse_switch, "off", "Run every step again.", "on|off", _GROUP)
    frontend_opt: tuple[str, ...] = setting(
        lines(parse_pair),
        (),
        "Another option of the Dockerfile frontend, such as add-hosts=db=10.0.0.7. "
        "May be repeated.",
        "NAME=VALUE",
        _GROUP,
    )
    allow: tuple[str, ...] = setting(
        words(parse_name),
        (),
        "Entitlement that the daemon was configured to grant, such as network.host. "
        "May be repeated.",
        "ENTITLEMENT",
        _GROUP,
    )

    def build_contradictions(self) -> list[tuple[frozenset[str], str]]:
        """Return which of these cannot go together, and what of that is to be said."""
        ids = [spec.partition(",")[0] for spec in self.secret]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if not twice:
            return []
        return [(frozenset({"secret"}), f"--secret: expected each id once, found {twice[0]} twice")]
