"""What a CI system tells of a build in the variables that it sets.

GitHub Actions: https://docs.github.com/en/actions/reference/workflows-and-actions/variables
GitLab: https://docs.gitlab.com/ci/variables/predefined_variables/
Jenkins: https://www.jenkins.io/doc/book/pipeline/multibranch/ and the Git plugin's GIT_URL
Tekton sets none: the tasks of deploy/ do, from the parameters of their pipeline.

A build for a pull or merge request, or of a tag, is not one of a branch, even where the author of
the request has called the branch ``main``: such a build's ``branch`` is ``pull:12`` or ``tag:v1``,
which Git allows for no branch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Variables = Mapping[str, str]


@dataclass(frozen=True)
class Fact:
    """One thing known of a build: ``kind`` is "", or what tells it from all branches."""

    value: str
    kind: str = ""


@dataclass(frozen=True)
class Source:
    """Where a fact is found: ``needs`` names the variables for people, ``reads`` has them all."""

    needs: str
    find: Callable[[Variables], Fact | None]
    reads: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """One CI system; any of ``marks`` shows that a build is one of its."""

    name: str
    marks: tuple[str, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)

    def tells(self, what: str, variables: Variables) -> Fact | None:
        """Return what it says of a build, None where it says nothing."""
        source = self.sources.get(what)
        return source.find(variables) if source else None


def _first(*kinds: tuple[str, str]) -> Source:
    """Return the first variable that is set, each with the kind of thing that it names."""

    def find(variables: Variables) -> Fact | None:
        found = ((variables.get(name, ""), kind) for name, kind in kinds)
        return next((Fact(value, kind) for value, kind in found if value), None)

    names = tuple(name for name, _ in kinds)
    return Source(" or ".join(names), find, names)


#: What tells the ref of a build at GitHub.
_GITHUB_REF = ("GITHUB_REF", "GITHUB_EVENT_NAME", "GITHUB_HEAD_REF")
#: Of GitHub's events, those that build what their ref names. With the others the ref is the default
#: branch's, whosever commit the workflow checks out.
_GITHUB_BUILDS_REF = frozenset(
    {"", "create", "merge_group", "pull_request", "pull_request_review", "push", "release"}
    | {"schedule", "workflow_call", "workflow_dispatch"}
)


def _github_branch(variables: Variables) -> Fact | None:
    if variables.get("GITHUB_EVENT_NAME", "") not in _GITHUB_BUILDS_REF:
        return None
    ref, head = variables.get("GITHUB_REF", ""), variables.get("GITHUB_HEAD_REF", "")
    kind, _, name = ref.removeprefix("refs/").partition("/")
    if kind == "pull":
        return Fact(name.partition("/")[0], "pull")
    # With the event pull_request_target the ref is the target's, and no number is told.
    if head or not name or kind not in ("heads", "tags"):
        return None
    return Fact(name, "tag" if kind == "tags" else "")


def _github_tag(variables: Variables) -> Fact | None:
    fact = _github_branch(variables)
    return Fact(fact.value) if fact and fact.kind == "tag" else None


def _remote(variable: str) -> Source:
    """Return host and path of the address of a Git repository, without user and password."""

    def find(variables: Variables) -> Fact | None:
        return _host_and_path(variables.get(variable, ""))

    return Source(variable, find, (variable,))


def _path(variable: str) -> Source:
    """Return what :func:`_remote` does, without the host."""

    def find(variables: Variables) -> Fact | None:
        fact = _host_and_path(variables.get(variable, ""))
        host, _, path = fact.value.partition("/") if fact else ("", "", "")
        return Fact(path or host) if host else None

    return Source(variable, find, (variable,))


def _host_and_path(url: str) -> Fact | None:
    _, separator, rest = url.partition("://")
    # Without a scheme it is `user@host:path`, or a path.
    authority, slash, path = rest.partition("/") if separator else url.partition(":")
    if not separator and "/" in authority:
        authority, slash, path = "", "", url
    if "@" in path:
        # The end of a password with a slash, perhaps.
        return None
    address = f"{authority.rpartition('@')[2]}{slash}{path}"
    found = re.fullmatch(r"([^/:@]*)(?::\d+(?=/))?[:/]+(.+?)(?:\.git)?/*", address)
    return Fact("/".join(part for part in found.groups() if part)) if found else None


SYSTEMS = (
    System(
        "GitHub Actions",
        ("GITHUB_REPOSITORY", "GITHUB_REF"),
        {
            "repository": _first(("GITHUB_REPOSITORY", "")),
            "path": _first(("GITHUB_REPOSITORY", "")),
            "branch": Source(
                "GITHUB_REF, refs/pull/… in a pull request,", _github_branch, _GITHUB_REF
            ),
            "target_branch": _first(("GITHUB_BASE_REF", "")),
            "tag": Source("GITHUB_REF, refs/tags/…,", _github_tag, _GITHUB_REF),
            "commit": _first(("GITHUB_SHA", "")),
            "build": _first(("GITHUB_RUN_NUMBER", "")),
        },
    ),
    System(
        "GitLab",
        ("CI_PROJECT_PATH", "CI_COMMIT_REF_NAME", "CI_COMMIT_BRANCH", "CI_MERGE_REQUEST_IID"),
        {
            "repository": _first(("CI_PROJECT_PATH", "")),
            "path": _first(("CI_PROJECT_PATH", "")),
            "branch": _first(
                ("CI_MERGE_REQUEST_IID", "pull"),
                ("CI_EXTERNAL_PULL_REQUEST_IID", "pull"),
                ("CI_COMMIT_TAG", "tag"),
                ("CI_COMMIT_BRANCH", ""),
            ),
            "target_branch": _first(
                ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", ""),
                ("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME", ""),
            ),
            "default_branch": _first(("CI_DEFAULT_BRANCH", "")),
            "tag": _first(("CI_COMMIT_TAG", "")),
            "commit": _first(("CI_COMMIT_SHA", "")),
            "build": _first(("CI_PIPELINE_IID", "")),
        },
    ),
    System(
        "Jenkins",
        ("GIT_URL", "BRANCH_NAME", "CHANGE_ID", "TAG_NAME", "JENKINS_URL"),
        {
            "repository": _remote("GIT_URL"),
            "path": _path("GIT_URL"),
            "branch": _first(("CHANGE_ID", "pull"), ("TAG_NAME", "tag"), ("BRANCH_NAME", "")),
            "target_branch": _first(("CHANGE_TARGET", "")),
            "tag": _first(("TAG_NAME", "")),
            "commit": _first(("GIT_COMMIT", "")),
            "build": _first(("BUILD_NUMBER", "")),
        },
    ),
    System(
        "Tekton",
        (
            *("TEKTON_GIT_URL", "TEKTON_GIT_BRANCH", "TEKTON_GIT_TAG", "TEKTON_PULL_REQUEST"),
            *("TEKTON_GIT_COMMIT", "TEKTON_RUN"),
        ),
        {
            "repository": _remote("TEKTON_GIT_URL"),
            "path": _path("TEKTON_GIT_URL"),
            "branch": _first(
                ("TEKTON_PULL_REQUEST", "pull"),
                ("TEKTON_GIT_TAG", "tag"),
                ("TEKTON_GIT_BRANCH", ""),
            ),
            "target_branch": _first(("TEKTON_TARGET_BRANCH", "")),
            "default_branch": _first(("TEKTON_DEFAULT_BRANCH", "")),
            "tag": _first(("TEKTON_GIT_TAG", "")),
            "commit": _first(("TEKTON_GIT_COMMIT", "")),
            "build": _first(("TEKTON_RUN", "")),
        },
    ),
)
"""In the order in which they are looked for."""


#: Every variable that is read here: a process that is told these knows what there is to know.
VARIABLES = frozenset(
    name
    for system in SYSTEMS
    for names in (system.marks, *(source.reads for source in system.sources.values()))
    for name in names
)


def system_of(variables: Variables) -> System | None:
    """Return the first system one of whose variables is set."""
    return next((one for one in SYSTEMS if any(variables.get(name) for name in one.marks)), None)
