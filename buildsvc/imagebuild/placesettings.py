"""Options of the places around a build: the sidecar, and where results are written."""

# ruff: noqa: RUF009  setting() makes a field().

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildsvc.imagebuild.values import parse_address, parse_status_url
from buildsvc.setting import setting
from buildsvc.values import one_of, parse_duration, parse_path, parse_program

_SIDECAR, _RESULTS = "sidecar", "results"

#: Where deploy/ has the sidecar write it.
ENDPOINT_FILE = Path("/run/buildsvc/endpoint.json")
DEFAULT_ADDRESS = "tcp://localhost:1234"


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    """Fields of the options."""

    address: str = setting(
        lambda value: parse_address(value) if value else "",
        "",
        f"Where the sidecar serves builds. Default: the endpoint file's, else {DEFAULT_ADDRESS}.",
        "URL",
        _SIDECAR,
    )
    endpoint_file: Path | None = setting(
        parse_path,
        None,
        "File in which the sidecar says how to connect. Named explicitly, it is waited for. "
        f"Default: {ENDPOINT_FILE}.",
        "FILE",
        _SIDECAR,
    )
    tls_dir: Path | None = setting(
        parse_path,
        None,
        "Directory with the client's ca.pem, cert.pem and key.pem. Default: the endpoint file's.",
        "DIR",
        _SIDECAR,
    )
    status_url: str = setting(
        parse_status_url,
        "http://127.0.0.1:8378",
        "The sidecar's status pages; off: do not ask.",
        "URL",
        _SIDECAR,
    )
    wait: float = setting(
        parse_duration, "120s", "How long to wait for the sidecar.", "DURATION", _SIDECAR
    )
    buildctl: str = setting(
        parse_program, "buildctl", "Program: name or path.", "PROGRAM", _SIDECAR
    )
    progress: str = setting(
        one_of("auto", "plain", "tty", "rawjson", "quiet"),
        "auto",
        "BuildKit's progress, as buildctl has it.",
        "auto|plain|tty|rawjson|quiet",
        _SIDECAR,
    )

    result_file: Path | None = setting(
        parse_path, None, "JSON with everything that is known of the image.", "FILE", _RESULTS
    )
    digest_file: Path | None = setting(
        parse_path, None, "File for the digest alone.", "FILE", _RESULTS
    )
    reference_file: Path | None = setting(
        parse_path, None, "File for the reference with its digest alone.", "FILE", _RESULTS
    )
    dotenv: Path | None = setting(
        parse_path,
        None,
        "File of variables, as GitLab's artifacts:reports:dotenv takes it.",
        "FILE",
        _RESULTS,
    )
    github_output: Path | None = setting(
        parse_path,
        None,
        "File that a step's outputs are appended to. Default: $GITHUB_OUTPUT.",
        "FILE",
        _RESULTS,
    )
    tekton_results: Path | None = setting(
        parse_path,
        None,
        "Directory of Tekton's results, /tekton/results in a task.",
        "DIR",
        _RESULTS,
    )
