"""The names of images: what each CI system makes of a template."""

from __future__ import annotations

import pytest

from buildsvc.errors import ConfigError
from buildsvc.imagebuild.names import ImageNames, image_names
from buildsvc.imagebuild.settings import load_settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GITHUB = {
    "GITHUB_REPOSITORY": "Acme/App", "GITHUB_REF": "refs/heads/feature/X", "GITHUB_SHA": COMMIT,
    "GITHUB_RUN_NUMBER": "41",
}  # fmt: skip
GITLAB = {
    "CI_PROJECT_PATH": "acme/team/app", "CI_COMMIT_BRANCH": "feature/X", "CI_COMMIT_SHA": COMMIT,
    "CI_PIPELINE_IID": "41",
}  # fmt: skip
JENKINS = {
    "GIT_URL": "https://me:secret@git.example.com/acme/app.git", "BRANCH_NAME": "feature/X",
    "GIT_COMMIT": COMMIT, "BUILD_NUMBER": "41",
}  # fmt: skip
TEKTON = {
    "TEKTON_GIT_URL": "git@git.example.com:acme/app.git", "TEKTON_GIT_BRANCH": "feature/X",
    "TEKTON_GIT_COMMIT": COMMIT, "TEKTON_RUN": "41",
}  # fmt: skip


def names(variables: dict[str, str] | None = None, **flags: object) -> ImageNames:
    given = {"repository": "registry.example/app", "version": "1", **flags}
    found = image_names(load_settings(given, {}), variables or {})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        (GITHUB, "acme/app"),
        (GITLAB, "acme/team/app"),
        (JENKINS, "acme/app"),
        (TEKTON, "acme/app"),
    ],
)
def test_each_system(variables: dict[str, str], path: str) -> None:
    found = names(
        variables, registry="registry.example:5000", repository="{repository}",
        version="{short_commit}", tag=["{branch}", "b{build}", "{commit}", "{short_commit}"],
    )  # fmt: skip
    assert found.repository == f"registry.example:5000/{path}"
    assert found.tags == (COMMIT[:12], "feature-X", "b41", COMMIT)
    assert found.references[0] == f"registry.example:5000/{path}:{COMMIT[:12]}"


@pytest.mark.parametrize(
    ("variables", "tag"),
    [
        ({**GITHUB, "GITHUB_REF": "refs/tags/v1.2"}, "v1.2"),
        ({**GITLAB, "CI_COMMIT_TAG": "v1.2"}, "v1.2"),
        ({**JENKINS, "TAG_NAME": "v1.2"}, "v1.2"),
        ({**TEKTON, "TEKTON_GIT_TAG": "v1.2"}, "v1.2"),
    ],
)
def test_a_git_tag(variables: dict[str, str], tag: str) -> None:
    assert names(variables, version="{tag}", tag="{branch}").tags == (tag, f"tag-{tag}")


def test_a_pull_request_is_no_branch() -> None:
    variables = {**GITHUB, "GITHUB_REF": "refs/pull/12/merge"}
    assert names(variables, version="{branch}").tags == ("pull-12",)


@pytest.mark.parametrize(
    ("repository", "registry", "whole"),
    [
        ("registry.example/team/app", "", "registry.example/team/app"),
        ("localhost/app", "", "localhost/app"),
        ("team/app", "r.example:5000", "r.example:5000/team/app"),
        ("r.example/app", "r.example", "r.example/app"),
        ("team/app", "", "docker.io/team/app"),
        ("app", "", "docker.io/library/app"),
    ],
)
def test_where_a_repository_is(repository: str, registry: str, whole: str) -> None:
    assert names(repository=repository, registry=registry).repository == whole


def test_variables_and_braces() -> None:
    variables = {"WHO": "me & you"}
    assert names(variables, version="{env:WHO}-1").tags == ("me-you-1",)


@pytest.mark.parametrize(
    ("variables", "flags", "said"),
    [
        ({}, {"version": "{commit}"}, "none of GITHUB_REPOSITORY"),
        ({}, {"version": "{env:NOT_SET}"}, "expected: the variable NOT_SET"),
        (GITHUB, {"version": "{tag}"}, "GITHUB_REF, refs/tags/…, for {tag}"),
        ({}, {"version": "-x"}, "neither . nor - at the beginning"),
        ({}, {"version": "a:b"}, "makes no tag"),
        ({}, {"repository": "Team/App"}, "lower case letters"),
        ({}, {"repository": "r.example/a", "registry": "s.example"}, "another registry"),
    ],
)
def test_what_makes_no_name(variables: dict[str, str], flags: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("{", r"\{")) as error:
        names(variables, **flags)
    assert "sidecar's container" not in str(error.value)


def test_no_repository() -> None:
    assert image_names(load_settings({"push": "off"}, {}), {}) is None
