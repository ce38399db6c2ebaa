"""Names of keys: what each CI system makes of a template, and that no two builds share one."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildsvc.cache.keys import MAX_NAME, CacheKey
from buildsvc.ci import system_of
from buildsvc.errors import ConfigError
from buildsvc.keynames import LONGEST, key_names, parse_key_name

GITHUB = {"GITHUB_REPOSITORY": "acme/app", "GITHUB_REF": "refs/heads/feature/x"}
GITHUB_PULL = {
    "GITHUB_REPOSITORY": "acme/app",
    "GITHUB_REF": "refs/pull/12/merge",
    "GITHUB_HEAD_REF": "main",
    "GITHUB_BASE_REF": "release/2",
}
GITLAB = {
    "CI_PROJECT_PATH": "acme/team/app",
    "CI_COMMIT_REF_NAME": "feature/x",
    "CI_COMMIT_BRANCH": "feature/x",
    "CI_DEFAULT_BRANCH": "main",
}
GITLAB_MERGE = {
    "CI_PROJECT_PATH": "acme/team/app",
    "CI_COMMIT_REF_NAME": "main",
    "CI_DEFAULT_BRANCH": "main",
    "CI_MERGE_REQUEST_IID": "34",
    "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "develop",
}
JENKINS = {"GIT_URL": "https://me:secret@git.example.com:8443/acme/app.git", "BRANCH_NAME": "main"}
JENKINS_CHANGE = {
    "GIT_URL": "git@git.example.com:acme/app.git",
    "BRANCH_NAME": "PR-7",
    "CHANGE_ID": "7",
    "CHANGE_TARGET": "main",
}
TEKTON = {"TEKTON_GIT_URL": "git@git.example.com:acme/app.git", "TEKTON_GIT_BRANCH": "main"}
TEMPLATE = "{repository}/{branch}"


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        (GITHUB, ["acme%2Fapp/feature/x"]),
        (GITHUB_PULL, ["acme%2Fapp/pull:12", "acme%2Fapp/release/2"]),
        ({**GITHUB, "GITHUB_REF": "refs/tags/v1"}, ["acme%2Fapp/tag:v1"]),
        (GITLAB, ["acme%2Fteam%2Fapp/feature/x", "acme%2Fteam%2Fapp/main"]),
        ({**GITLAB, "CI_COMMIT_BRANCH": "main"}, ["acme%2Fteam%2Fapp/main"]),
        (
            GITLAB_MERGE,
            [f"acme%2Fteam%2Fapp/{name}" for name in ("pull:34", "develop", "main")],
        ),
        (
            {**GITLAB, "CI_COMMIT_BRANCH": "", "CI_COMMIT_TAG": "main"},
            ["acme%2Fteam%2Fapp/tag:main", "acme%2Fteam%2Fapp/main"],
        ),
        (JENKINS, ["git.example.com%2Facme%2Fapp/main"]),
        (
            JENKINS_CHANGE,
            ["git.example.com%2Facme%2Fapp/pull:7", "git.example.com%2Facme%2Fapp/main"],
        ),
        ({**JENKINS, "TAG_NAME": "v1"}, ["git.example.com%2Facme%2Fapp/tag:v1"]),
        (TEKTON, ["git.example.com%2Facme%2Fapp/main"]),
        (
            # The author of a request has called the branch main.
            {**TEKTON, "TEKTON_PULL_REQUEST": "7", "TEKTON_TARGET_BRANCH": "main"},
            ["git.example.com%2Facme%2Fapp/pull:7", "git.example.com%2Facme%2Fapp/main"],
        ),
        ({**TEKTON, "TEKTON_GIT_TAG": "v1"}, ["git.example.com%2Facme%2Fapp/tag:v1"]),
    ],
)
def test_what_each_system_makes_of_a_template(variables: dict[str, str], names: list[str]) -> None:
    assert key_names(TEMPLATE, (), variables) == names


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://git.example.com/acme/app", "git.example.com/acme/app"),
        ("ssh://git@git.example.com:7999/acme/app.git/", "git.example.com/acme/app"),
        ("git.example.com:app.git", "git.example.com/app"),
        ("/srv/git/app.git", "srv/git/app"),
        ("file:///srv/git/app.git", "srv/git/app"),
        ("https://me:pass@word@git.example.com/acme/app", "git.example.com/acme/app"),
        ("HTTPS://me:secret@git.example.com/acme/app", "git.example.com/acme/app"),
    ],
)
def test_addresses_of_repositories(url: str, repository: str) -> None:
    (name,) = key_names("{repository}", (), {"GIT_URL": url})
    assert unquote(name) == repository


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hun/ter2@git.example.com/acme/app",
        "me:hunter2@git.example.com:acme/app",
        "hunter2@git.example.com/acme/app",
        "/srv/hunter2@git/app",
    ],
)
def test_what_may_be_a_password_is_not_in_a_name(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        key_names("{repository}", (), {"GIT_URL": url})
    assert "ter2" not in str(caught.value)


def test_a_request_from_a_branch_called_main_is_not_main() -> None:
    """Else whoever opens a pull request writes to the default branch's cache."""
    for variables in (GITHUB_PULL, GITLAB_MERGE, JENKINS_CHANGE):
        own, *_ = key_names("{branch}", (), variables)
        assert own.startswith("pull:")
    named = {**GITHUB, "GITHUB_REF": "refs/heads/pull:12"}
    assert key_names("{branch}", (), named) == ["pull%3A12"]
    target = {**GITHUB, "GITHUB_REF": "refs/heads/main", "GITHUB_HEAD_REF": "patch"}
    with pytest.raises(ConfigError, match="GitHub Actions, which does not tell it in this build"):
        key_names("{branch}", (), target)
    for event in ("workflow_run", "issue_comment", "pull_request_target", "of tomorrow"):
        told = {**GITHUB, "GITHUB_REF": "refs/heads/main", "GITHUB_EVENT_NAME": event}
        with pytest.raises(ConfigError, match="does not tell it in this build"):
            key_names("{branch}", (), told)
    pushed = {**GITHUB, "GITHUB_REF": "refs/heads/main", "GITHUB_EVENT_NAME": "push"}
    assert key_names("{branch}", (), pushed) == ["main"]


def test_variables_and_plain_names() -> None:
    variables = {**GITLAB, "FLAVOUR": "a b/é"}
    assert key_names("{env:FLAVOUR}", (), variables) == ["a%20b%2F%C3%A9"]
    assert key_names("x-{env:FLAVOUR}/{{y}}", (), variables) == ["x-a%20b%2F%C3%A9/{y}"]
    assert key_names("default", (), variables) == ["default"]
    assert key_names("app/main", ("app/old", "app/main"), {}) == ["app/main", "app/old"]


def test_a_fallback_can_name_a_branch_of_another_build() -> None:
    """A value is written the same wherever it stands."""
    other = {**GITLAB, "CI_COMMIT_BRANCH": "release/2", "APP": "a/b"}
    for own in ("{repository}/{branch}", "{env:APP}/{branch}", "{branch}+{env:APP}"):
        (found, *_) = key_names(own, (), other)
        literal = own.replace("{branch}", "release/2")
        assert key_names(own, (literal,), {**GITLAB, "APP": "a/b"})[1] == found


def test_fallbacks_of_ones_own_are_the_only_ones() -> None:
    own = "acme%2Fteam%2Fapp/feature/x"
    fallbacks = ("{repository}/{default_branch}", "{repository}/old", "common")
    assert key_names(TEMPLATE, fallbacks, GITLAB) == [
        own,
        "acme%2Fteam%2Fapp/main",
        "acme%2Fteam%2Fapp/old",
        "common",
    ]
    assert key_names("{repository}", (), GITLAB) == ["acme%2Fteam%2Fapp"], "no {branch} in it"
    assert key_names(TEMPLATE, ("{target_branch}",), GITLAB_MERGE)[1:] == ["develop"]


@pytest.mark.parametrize(
    ("template", "variables", "parts"),
    [
        ("{branch}", {}, ["GitHub Actions, GitLab, Jenkins or Tekton", "none of", "{env:NAME}"]),
        ("{branch}", {"CI_PROJECT_PATH": "a/b"}, ["CI_MERGE_REQUEST_IID", "found: GitLab"]),
        ("{branch}", {**GITHUB, "GITHUB_REF": ""}, ["GITHUB_REF", "found: GitHub Actions"]),
        ("{repository}", {"BRANCH_NAME": "x"}, ["GIT_URL for {repository}", "found: Jenkins"]),
        ("{default_branch}", GITHUB, ["found: GitHub Actions", "{env:NAME}"]),
        ("{target_branch}", GITLAB, ["CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "in this build"]),
        ("{env:MY_BRANCH}", {"MY_BRANCH": ""}, ["the variable MY_BRANCH", "not set, or empty"]),
    ],
)
def test_what_is_missing_is_told(
    template: str, variables: dict[str, str], parts: list[str]
) -> None:
    for own, fallbacks in ((template, ()), ("x", (template,))):
        with pytest.raises(ConfigError) as caught:
            key_names(own, fallbacks, variables)
        for part in [f"{template!r} cannot be filled in", *parts]:
            assert part in str(caught.value)
        assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("{brunch}", "expected {repository}, {branch}, {target_branch}, {default_branch} or {env:"),
        ("{}", "found {}"),
        ("{branch!r}", "found {branch!r}"),
        ("{branch:>9}", "found {branch:>9}"),
        ("{branch.real}", "found {branch.real}"),
        ("{env}", "found {env}"),
        ("{env:A-B}", "found {env:A-B}"),
        ("{env:{branch}}", "found {env:{branch}}"),
        ("{branch", "write {{ and }}"),
        ("branch}", "write {{ and }}"),
        ("{repository}{branch}", "between two placeholders"),
        ("{repository}-{branch}", "found '-'"),
        ("{branch}/{target_branch}", "expected a character such as @"),
        ("a b", "without spaces"),
        ("a\u200bb", "printable"),
        ("a\udcffb", "printable"),
        ("", "no name"),
    ],
)
def test_templates_that_are_none(template: str, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)):
        parse_key_name(template)


def test_the_first_system_with_a_variable_counts() -> None:
    assert system_of({}) is None
    assert system_of({"CI_PROJECT_PATH": ""}) is None
    both = system_of({**GITLAB, **JENKINS})
    assert both is not None
    assert both.name == "GitLab"


VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
TEMPLATES = st.sampled_from(
    ["{env:A}/{env:B}", "{env:A}:x@{env:B}/y", "p/{env:A}+{env:B}", "{env:A}%/{env:B}"]
)


@given(template=TEMPLATES, values=st.tuples(VALUES, VALUES), others=st.tuples(VALUES, VALUES))
def test_different_values_make_different_names(
    template: str, values: tuple[str, str], others: tuple[str, str]
) -> None:
    ((one,), (other,)) = (key_names(template, (), {"A": a, "B": b}) for a, b in (values, others))
    assert (one == other) == (values == others)


@given(st.text("a/:%~.-", min_size=2, max_size=8), st.integers(1, 7), st.integers(1, 7))
def test_a_text_that_is_divided_elsewhere_makes_another_name(text: str, one: int, two: int) -> None:
    def name(at: int) -> list[str]:
        return key_names("{env:A}/{env:B}", (), {"A": text[:at], "B": text[at:]})

    if max(one, two) < len(text):
        assert (name(one) == name(two)) == (one == two)


PATHS = st.text("a/%~", min_size=1, max_size=5)


@given(
    template=st.sampled_from(
        ["{repository}/{branch}", "{branch}/{repository}", "{branch}@{default_branch}+{repository}"]
    ),
    values=st.tuples(PATHS, PATHS),
    others=st.tuples(PATHS, PATHS),
)
def test_different_branches_and_repositories_make_different_names(
    template: str, values: tuple[str, str], others: tuple[str, str]
) -> None:
    one, other = (
        key_names(template, ("x",), {**GITLAB, "CI_PROJECT_PATH": path, "CI_COMMIT_BRANCH": branch})
        for path, branch in (values, others)
    )
    assert (one == other) == (values == others)


@given(VALUES)
def test_every_value_makes_a_valid_key(value: str) -> None:
    (name,) = key_names("app/{env:A}", (), {"A": value * 50})
    key = CacheKey("t", "d", name, "linux-amd64", "buildkit-0.33")
    assert key.name == name
    made = CacheKey.make(
        tenant="t", trust_domain="d", name=name, platform="linux/amd64", buildkit_version="v0.33.1"
    )
    assert made.name == name, "it is normalised already"


def test_names_that_are_too_long_end_in_a_digest() -> None:
    assert LONGEST < MAX_NAME
    (fits,) = key_names("{env:A}", (), {"A": "a" * LONGEST})
    assert fits == "a" * LONGEST
    names = [key_names("{env:A}", (), {"A": "a" * LONGEST + end})[0] for end in "bcd"]
    assert {len(name) for name in names} == {LONGEST}
    assert len({*names, fits}) == 4
    assert all(name.startswith("a" * 400) for name in names)


def test_a_variable_that_is_no_utf8_makes_a_name() -> None:
    assert key_names("{env:A}", (), {"A": "caf\udce9"}) == ["caf%E9"]
