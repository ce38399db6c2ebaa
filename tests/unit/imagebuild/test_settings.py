"""The options: where they come from, what is wrong with them, and that the page has them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from buildsvc.errors import (
    BuildsvcError,
    CannotCreate,
    ConfigError,
    EnvironmentUnfit,
    UsageError,
)
from buildsvc.imagebuild import errors
from buildsvc.imagebuild.command import main
from buildsvc.imagebuild.settings import SETTINGS, Settings, load_settings
from buildsvc.setting import flag_name

NAMED = {"repository": "registry.example/app", "version": "1"}


def load(environ: dict[str, str] | None = None, /, **flags: object) -> Settings:
    return load_settings({**NAMED, **flags}, environ or {})


def problems(environ: dict[str, str] | None = None, /, **flags: object) -> str:
    with pytest.raises(ConfigError) as error:
        load(environ, **flags)
    assert error.value.exit_code == 78
    return str(error.value)


def test_a_flag_wins_over_its_variable() -> None:
    environ = {"BUILDSVC_IMAGE_CONTEXT": "there", "BUILDSVC_IMAGE_TARGET": "final"}
    settings = load(environ, context="here")
    assert (settings.context, settings.target) == ("here", "final")


def test_what_is_empty_counts_as_not_given() -> None:
    settings = load({"BUILDSVC_IMAGE_CONTEXT": "there"}, context="", build_arg=[], target="")
    assert (settings.context, settings.build_arg, settings.target) == ("there", (), "")
    assert load({"BUILDSVC_IMAGE_WAIT": ""}).wait == 120


def test_lists_of_a_variable_are_lines() -> None:
    environ = {
        "BUILDSVC_IMAGE_BUILD_ARG": "A=1, 2\nB=x\n\n",
        "BUILDSVC_IMAGE_PLATFORM": "linux/amd64, linux/arm64",
        "BUILDSVC_IMAGE_TAG": "a b,c\nd",
    }
    settings = load(environ)
    assert settings.build_arg == ("A=1, 2", "B=x")
    assert settings.platform == ("linux/amd64", "linux/arm64")
    assert settings.tag == ("a", "b", "c", "d")


def test_flags_are_taken_as_they_are() -> None:
    assert load(build_arg=["A=1\n2", "B"]).build_arg == ("A=1\n2", "B")


def test_variables_of_the_sidecar_and_the_password_are_no_options() -> None:
    environ = {"BUILDSVC_STORE": "s3://x", "BUILDSVC_IMAGE_REGISTRY_PASSWORD": "x", "IMAGE": "y"}
    environ["BUILDSVC_IMAGE_SERVICE_HOST"] = "10.0.0.1"
    assert load(environ) == load()


def test_everything_that_is_wrong_is_said_at_once() -> None:
    said = problems(
        {"BUILDSVC_IMAGE_CONTEX": "x", "BUILDSVC_IMAGE_WAIT": "soon"},
        repository="", platform=["Linux"], secret=["id=a"],
    )  # fmt: skip
    for part in (
        "BUILDSVC_IMAGE_CONTEX: no such setting; did you mean context?",
        "BUILDSVC_IMAGE_WAIT: 'soon' is not a duration",
        "--repository: expected a name to push to, or --push=off",
        "--platform: expected OS/ARCH",
        "--secret: expected id=NAME,src=FILE or id=NAME,env=VARIABLE",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"version": ""}, "--version: expected a version, a --tag, or --push=off"),
        ({"registry_password_file": "/p"}, "--registry-user: expected the user"),
        (
            {"registry_secret": "/s", "registry_token_command": "t"},
            "found --registry-token-command, --registry-secret",
        ),
        ({"secret": ["id=a,src=/x", "id=a,env=Y"]}, "found id=a twice"),
        ({"repository": "{repo}"}, "expected {repository}"),
        ({"registry": "https://x"}, "without https:// and path"),
        ({"output": ["type=image,name=x"]}, "to push, use --repository"),
        ({"output": ["type=oci"]}, "expected a file or directory in dest="),
        ({"output": ["type=oci,dest=-"]}, "expected a file or directory in dest="),
        ({"output": ['type=oci,"dest=a']}, "expected type="),
        ({"secret": ["id=a,src=/x,env=Y"]}, "expected id=NAME,src=FILE"),
        ({"secret": ["id=a,env=Y-Z"]}, "expected the name of a variable"),
        ({"secret": ["id=a,source=/x"]}, "found source="),
        ({"build_arg": ["a b=c"]}, "expected NAME=VALUE or NAME"),
        ({"label": ["x"]}, "expected NAME=VALUE, found 'x'"),
        ({"ssh": ["=x"]}, "expected default, ID=SOCKET or ID=KEY"),
        ({"sbom": "image"}, "expected on, off or generator=IMAGE"),
        ({"provenance": "all"}, "expected off, min or max"),
        ({"cache_from": ["ref=x"]}, "expected type=registry"),
        ({"cache_to": ["x"]}, "expected type=registry"),
        ({"cache_to": ["type=s3,secret_access_key=hunter2"]}, "found secret_access_key=, which"),
        ({"address": "localhost:1234"}, "expected tcp://HOST:PORT"),
        ({"address": "tcp://localhost:x"}, "expected tcp://HOST:PORT"),
        ({"status_url": "127.0.0.1"}, "expected http://HOST:PORT or off"),
        ({"progress": "fancy"}, "expected auto, plain, tty, rawjson or quiet"),
        ({"platform": "linux"}, ""),
    ],
)  # fmt: skip
def test_wrong_options(flags: dict[str, object], said: str) -> None:
    if not said:
        load(**flags)
        return
    found = problems(**flags)
    assert said in found
    assert "hunter2" not in found


def test_a_build_argument_that_is_a_secret_by_mistake_is_not_repeated() -> None:
    assert "hunter2" not in problems(build_arg=["pass word=hunter2"])


def test_the_page_has_every_option_and_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "image-build.md").read_text()
    page = page[page.index("## Options") : page.index("## Names")]
    rows = {m[1]: m[0] for m in re.finditer(r"^\| `(--[a-z-]+)` \|.*$", page, re.MULTILINE)}
    assert rows.keys() == {flag_name(name) for name in SETTINGS}
    for name, setting in SETTINGS.items():
        row = rows[flag_name(name)]
        text = setting.text.replace("|", r"\|")
        stated = re.search(r" Default: (.*)\.$", text)
        text = text[: stated.start() if stated else None]
        several = text.endswith(" May be repeated.")
        assert text.removesuffix(" May be repeated.") in row, name
        assert several == ("*several*" in row), name
        default = stated[1].lower().replace("`", "") if stated else setting.default
        assert str(default or "none").lower() in row.lower().replace("`", ""), name
        assert setting.metavar.replace("|", r"\|") in row, name


def test_the_page_has_every_exit_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "image-build.md").read_text()
    table = page[page.index("## Exit codes") : page.index("## Examples")]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    own = {kind.exit_code for kind in vars(errors).values() if _is_error(kind)}
    ours = {kind.exit_code for kind in (UsageError, EnvironmentUnfit, CannotCreate, ConfigError)}
    assert documented == {0, 1, BuildsvcError.exit_code} | own | ours
    assert 1 not in own | ours


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BuildsvcError) and kind is not BuildsvcError


def test_the_step_needs_little() -> None:
    """Its image has little in it, and a pipeline waits for its start."""
    code = (
        "import sys; before = {*sys.modules}; import buildsvc.imagebuild.command; "
        "names = {name.partition('.')[0] for name in {*sys.modules} - before}; "
        "print(*sorted(names - sys.stdlib_module_names))"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["buildsvc", "tenacity"]


def test_the_help_and_a_wrong_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--repository TEMPLATE" in capsys.readouterr().out
    assert main(["--repo", "x"]) == 64
    assert "image-build: error: unrecognized arguments: --repo x" in capsys.readouterr().err
