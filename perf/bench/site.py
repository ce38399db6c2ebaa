"""Everything that stands while one scenario is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perf.build import Job
from perf.host import remove_tree
from perf.peer import StockDaemon
from perf.pod import Pod, PodOptions
from perf.project import Project, scenario
from perf.services import Registry, object_server, push_base, registry

KEY = "bench"


@dataclass
class Site:
    """Services, the project's working copy, and the daemon that stays up (``warm``)."""

    scratch: Path
    registry: Registry
    config: Path
    project: Project
    stores: ExitStack
    store: Path = Path("/nonexistent")
    store_url: str = ""
    warm: StockDaemon | None = None
    _revision: int = 0
    _number: int = field(default=0)

    def fresh(self, name: str) -> Path:
        """Return a path that nothing has used, for a pod's or a peer's files."""
        self._number += 1
        return self.scratch / f"{name}-{self._number}"

    def revise(self) -> int:
        """Change the line; no two builds of a site see the same revision."""
        self._revision += 1
        self.project.revise(self._revision)
        return self._revision

    def job(self, side: str, *, target: str = "", options: tuple[str, ...] = ()) -> Job:
        """Return the build of the project as it is now; each side pushes to a place of its own."""
        image = f"{self.registry.host}/{side}/{self.project.name}:latest"
        return self.project.job(image, target=target, options=options)

    @property
    def cache_reference(self) -> str:
        """Where BuildKit's own cache lies."""
        return f"{self.registry.host}/cache/{self.project.name}:latest"

    def pod(self, *, local: bool = False) -> Pod:
        """Return a pod that is not started; ``local``: with the store as a directory."""
        store = f"file://{self.store}" if local else self.store_url
        return Pod(self.fresh("pod"), PodOptions(store, KEY, self.config))

    def stock(self) -> StockDaemon:
        """Return a stock daemon that is not started."""
        return StockDaemon(self.fresh("stock"), self.config)

    def new_store(self) -> None:
        """Go on with an empty store; the one before is removed."""
        self.stores.close()
        remove_tree(self.store)
        self.store = self.fresh("store")
        log = self.scratch / "objectserver.log"
        self.store_url = self.stores.enter_context(object_server(self.store, log))


@contextmanager
def site(name: str, scratch: Path) -> Iterator[Site]:
    """A scenario's services and working copy; everything is stopped afterwards."""
    with ExitStack() as stack:
        images = stack.enter_context(registry(scratch / "registry"))
        config = images.config(scratch / "buildkitd.toml")
        stores = stack.enter_context(ExitStack())
        with StockDaemon(scratch / "base", config) as daemon:
            daemon.start(watched=False)
            daemon.wait_answer()
            base = push_base(daemon.address, images.host)
        images.stop()
        images.save()
        images.start()
        place = Site(scratch, images, config, scenario(name, scratch, {"BASE": base}), stores)
        try:
            yield place
        finally:
            if place.warm is not None:
                place.warm.__exit__(None, None, None)
