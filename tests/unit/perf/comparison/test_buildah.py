"""What Buildah is told, and what it tells."""

from __future__ import annotations

import shlex
from pathlib import Path

from perf.build import Job
from perf.comparison.peers.buildah import read, script

_SAID = """\
[1/2] STEP 1/2: FROM 198.18.0.2:5000/base AS tree
Copying blob sha256:831d
[1/2] STEP 2/2: RUN make
--> Cache pulled from remote 198.18.0.2:5000/cache/x:1abd
--> Using cache 66a2
--> 66a2
[2/2] STEP 1/3: FROM 198.18.0.2:5000/base
[2/2] STEP 2/3: COPY --from=tree /tree /tree
STEP by step
--> d876
[2/2] STEP 3/3: CMD ["cat"]
[2/2] COMMIT 198.18.0.2:5000/built/x
Successfully tagged 198.18.0.2:5000/built/x:latest
buildah push
Copying blob sha256:302f
"""


def _lines(text: str) -> list[tuple[float, str]]:
    return [(float(number), line) for number, line in enumerate(text.splitlines())]


def test_steps_are_counted_without_from() -> None:
    told = read(_lines(_SAID), 20.0)

    assert (told.steps, told.cached) == (3, 1)


def test_a_step_lasts_until_the_next_one() -> None:
    assert read(_lines(_SAID), 20.0).spans == [
        ("FROM 198.18.0.2:5000/base AS tree", 0.0, 2.0),
        ("RUN make", 2.0, 6.0),
        ("FROM 198.18.0.2:5000/base", 6.0, 7.0),
        ("COPY --from=tree /tree /tree", 7.0, 10.0),
        ('CMD ["cat"]', 10.0, 11.0),
        ("COMMIT", 11.0, 13.0),
        ("push", 13.0, 20.0),
    ]


def test_one_stage_is_not_numbered() -> None:
    told = read(_lines("STEP 1/2: FROM base\nSTEP 2/2: RUN true\nCOMMIT x\n"), 5.0)

    assert [name for name, _, _ in told.spans] == ["FROM base", "RUN true", "COMMIT"]
    assert told.steps == 1


def test_a_pod_builds_and_pushes_with_files_of_its_own() -> None:
    job = Job(Path("/context"), Path("/context/File"), "host/x:latest", {"BASE": "a b"})
    text = script("buildah", Path("/pod"), "--cache-from=host/cache", [job])

    mount, build, said, push = (shlex.split(line) for line in text.splitlines())
    own = ["buildah", "--root=/pod/root", "--runroot=/pod/run", "--storage-driver=overlay"]
    assert mount == ["mount", "--bind", "/pod/lib", "/var/lib"]
    assert build == [
        *(*own, "build", "--isolation=chroot", "--layers", "--cache-from=host/cache"),
        *("--tls-verify=false", "--build-arg=BASE=a b", "--file=/context/File"),
        *("--tag=host/x:latest", "/context"),
    ]
    assert said == ["echo", "buildah push"]
    assert push == [*own, "push", "--tls-verify=false", "host/x:latest"]


def test_several_images_are_built_one_after_the_other() -> None:
    jobs = [
        Job(Path("/context"), Path("/context/File"), f"host/{name}:latest", target=name)
        for name in ("one", "two")
    ]
    lines = script("buildah", Path("/pod"), "--cache-from=host/cache", jobs).splitlines()

    assert len(lines) == 1 + 3 * len(jobs)
    assert "--target=one" in lines[1]
    assert lines[3].endswith("push --tls-verify=false host/one:latest")
    assert "--target=two" in lines[4]
