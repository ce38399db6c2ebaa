"""Several images of one project, as ``buildx bake`` builds them: all at once.

https://docs.docker.com/build/bake/: the project's docker-bake.hcl says what they are. A daemon that
is not Docker's is a builder of the driver ``remote``
(https://docs.docker.com/build/builders/drivers/remote/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.build import Built, Job
from perf.daemon import Daemon
from perf.host import output, program
from perf.project import Project

_BUILDER = "ci"


@dataclass(frozen=True)
class Bake(Job):
    """All images; ``image`` is what their names begin with, and their tag.

    ``arguments`` are the file's variables; ``options`` override what it says, such as
    ``TARGET.cache-to=…``.
    """

    def command(self, client: Sequence[str], metadata: Path) -> list[str]:
        """The command line; ``client`` is ``buildx`` and how it reaches the daemon."""
        registry, _, tag = self.image.rpartition(":")
        variables = {"REGISTRY": registry, "TAG": tag, "DOCKERFILE": self.dockerfile.name}
        variables |= self.arguments
        form = f",{self.form}" if self.form else ""
        allowed = ["--allow=network.host"] if variables.get("NETWORK") == "host" else []
        return [
            *("env", f"--chdir={self.context}"),
            *(f"{name}={value}" for name, value in variables.items()),
            *(*client, "bake", "--progress=rawjson", f"--metadata-file={metadata}", *allowed),
            *("--file=docker-bake.hcl", f"--set=*.output=type=image,push=true{form}"),
            *(f"--set={each}" for each in self.options),
        ]


def images(project: Project, image: str, *, form: str = "", options: Sequence[str] = ()) -> Bake:
    """Return how all images of a project are built in its present state."""
    arguments, context = project.arguments, project.context
    return Bake(context, project.dockerfile, image, arguments, options=tuple(options), form=form)


def client(daemon: Daemon) -> list[str]:
    """``buildx`` with this daemon as its builder. Raises PerfError."""
    config = daemon.base / "buildx"
    settings = [
        f"BUILDX_CONFIG={config}",
        # That only the metadata file asks for, and it takes 0.3 s.
        "BUILDX_METADATA_PROVENANCE=disabled",
        # For each cache in S3 buildx would ask a cloud for credentials; the daemon has them.
        "AWS_EC2_METADATA_DISABLED=true",
    ]
    buildx = ["env", *settings, program("buildx")]
    if not config.exists():
        # A daemon that stays up keeps its builder.
        output([*buildx, "create", f"--name={_BUILDER}", "--driver=remote", daemon.address])
    return [*buildx, f"--builder={_BUILDER}"]


def build_all(daemon: Daemon, job: Bake) -> Built:
    """Build with a daemon that is not Docker's, and remember what it took as it does."""
    return daemon.build(job, client(daemon))
